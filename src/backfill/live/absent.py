"""Live requests at a process without engines that is not to pass them on: there is nobody to answer them."""

from typing import NoReturn

from backfill.api_key import Caller
from backfill.config import LiveConfig
from backfill.errors import EngineUnavailable
from backfill.live.limits import Admission
from backfill.live.traffic import read_checked
from backfill.live.usage import LiveRequest

__all__ = ["AbsentTraffic"]


class AbsentTraffic:
    """Says so."""

    def __init__(self, config: LiveConfig) -> None:
        self._config = config

    @property
    def body_size_max_bytes(self) -> int:
        """How large a request may be."""
        return self._config.body_size_bytes

    def check(self, endpoint: str, body: bytes) -> LiveRequest:
        """What the request asks for; raises InvalidInput if it is none."""
        return read_checked(endpoint, body)

    async def admit(self, caller: Caller, request: LiveRequest) -> Admission:  # noqa: ARG002 - nothing is counted
        """No limit holds for what is not answered."""
        return Admission({})

    async def open(self, caller: Caller, endpoint: str, request: LiveRequest, body: bytes) -> NoReturn:  # noqa: ARG002
        """Raises EngineUnavailable."""
        message = (
            f"This server answers no {endpoint}: it has no engines of its own, and live.relay is false; "
            "send what cannot wait to a server that has engines (backfill serve --role all)."
        )
        raise EngineUnavailable(message)
