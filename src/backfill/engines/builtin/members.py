"""Reads a request against a table that says of every member what becomes of it. Pure.

Nothing that changes an answer is left out in silence: a member is honoured, has no effect on the answer anyway, or is
refused. A member that is null asks for nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import msgspec

__all__ = ["Member", "MemberTable", "Request", "RequestRefused", "Treatment", "has_no_effect", "honoured", "refused"]

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
# What msgspec puts after its reason; `[...]` stands for any of a list.
_PATH: Final = re.compile(r" - at (?:`key` in )?`\$\.?(?P<param>[^`]*)`$")


class RequestRefused(Exception):
    """The request asks for what the engine cannot do. The message is for the client."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The member of the body that is the matter."""
        self.code = code


class Treatment(StrEnum):
    """What becomes of a member."""

    HONOURED = "honoured"
    NO_EFFECT = "no effect"
    """It changes no answer, or says only whose request it is."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Member:
    """A row of the table."""

    treatment: Treatment
    kind: Any = None
    """The type that its value must have, for msgspec."""
    reason: str = ""
    """Why it is refused, in words that follow its name."""
    harmless: tuple[object, ...] = ()
    """Values that ask for nothing: they are not refused."""
    note: str = ""
    """What a reader of the table should know besides."""


def honoured(kind: Any, note: str = "") -> Member:
    """The engine does what the member says."""
    return Member(Treatment.HONOURED, kind, note=note)


def has_no_effect(note: str = "") -> Member:
    """The answer is the same with and without it."""
    return Member(Treatment.NO_EFFECT, note=note)


def refused(reason: str, *harmless: object) -> Member:
    """The request is refused, but for values that ask for nothing."""
    return Member(Treatment.REFUSED, reason=reason, harmless=harmless)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the table lets through."""

    members: dict[str, msgspec.Raw]
    """All of them, as they came."""
    values: Any
    """The honoured ones as attributes, None for those that are not given."""


class MemberTable:
    """All members of an endpoint that an engine knows of."""

    def __init__(self, endpoint: str, members: Mapping[str, Member]) -> None:
        self.endpoint = endpoint
        self.members = members

    @cached_property
    def _decoder(self) -> "msgspec.json.Decoder[Any]":
        fields = [
            (name, member.kind | None, None)
            for name, member in self.members.items()
            if member.treatment is Treatment.HONOURED
        ]
        return msgspec.json.Decoder(msgspec.defstruct("Body", fields))

    def read(self, body: bytes) -> Request:
        """The request in this body.

        Raises:
            RequestRefused: the engine cannot do what it asks for.

        """
        try:
            body.decode()
            members = _object.decode(body)
        # RecursionError: msgspec's answer to thousands of nested brackets.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestRefused("The request body is not a JSON object in UTF-8.") from None
        for name, raw in members.items():
            if bytes(raw) != b"null":
                self._check(name, raw)
        try:
            values = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            found = _PATH.search(str(error))
            param = found["param"] if found else None
            what = str(error)[: found.start()] if found else str(error)
            raise RequestRefused(f"'{param}': {what[:1].lower()}{what[1:]}.", param) from None
        except (msgspec.DecodeError, RecursionError):
            raise RequestRefused("The request body is not a JSON object in UTF-8.") from None
        return Request(members, values)

    def _check(self, name: str, raw: msgspec.Raw) -> None:
        member = self.members.get(name)
        if member is None:
            message = f"{name[:80]!r} is no member of {self.endpoint} that this engine knows."
            raise RequestRefused(message, name[:80], "unknown_parameter")
        if member.treatment is Treatment.REFUSED and not _is_one_of(raw, member.harmless):
            raise RequestRefused(f"'{name}' {member.reason}.", name, "unsupported_parameter")


def _is_one_of(raw: msgspec.Raw, values: tuple[object, ...]) -> bool:
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    # To Python, 1 is True.
    return any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in values)
