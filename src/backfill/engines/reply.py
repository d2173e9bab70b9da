"""What an engine made of one request, as a value: no exception of a network or an engine leaves this room."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from backfill.batch import Usage

__all__ = ["Answered", "Lost", "LostReason", "Refused", "Reply"]


class Answered(msgspec.Struct, frozen=True):
    """A 2xx with a JSON object. `body` is the engine's own bytes, on one line."""

    status: int
    body: bytes
    usage: Usage


@dataclass(frozen=True, slots=True)
class Refused:
    """A 4xx: the request is wrong for this engine, and would be tomorrow. `body` is a JSON object, on one line."""

    status: int
    body: bytes


class LostReason(StrEnum):
    """Why a request has no answer. The words stand in error files: they are part of the interface."""

    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    DISCONNECTED = "connection_lost"
    RATE_LIMITED = "rate_limit_exceeded"
    BAD_ANSWER = "invalid_engine_answer"
    UNREACHABLE = "engine_unreachable"


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer this time; another try may have one."""

    reason: LostReason
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    engine_ended: bool = False
    """The process that was to answer ended, for this request, for another that it had, or for a reason of its own."""

    @property
    def never_sent(self) -> bool:
        """The engine was not reached, so the request did not fail: the engine did."""
        return self.reason is LostReason.UNREACHABLE


Reply = Answered | Refused | Lost
