"""An answer that somebody waits for, on its way through this process."""

from collections.abc import Callable
from typing import Protocol

from backfill.engines import ForwardedAnswer
from backfill.live.usage import UsageReader

__all__ = ["LiveAnswer", "Stay"]


class Stay(Protocol):
    """A live request's place at who answers it."""

    def note_first_token(self, *, is_told: bool = False) -> None:
        """The answer begins; only the first call counts. `is_told`: who answers says so, stream or not."""

    def leave(self) -> None:
        """The request is over, however it ended; only the first call counts."""


class LiveAnswer:
    """An engine's answer with the live request's place there, which `close` gives back."""

    def __init__(self, answer: ForwardedAnswer, stay: Stay) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._stay = stay
        if answer.begins_at_first_token:
            stay.note_first_token(is_told=True)
        self._reader: UsageReader | None = None
        self._settle: Callable[[int], None] | None = None

    def count(self, reader: UsageReader, settle: Callable[[int], None]) -> None:
        """Have the tokens counted; at the end `settle` is called with their number."""
        self._reader, self._settle = reader, settle

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end; raises EngineUnavailable if the connection was lost."""
        part = await self._answer.read()
        self._stay.note_first_token()
        if self._reader is not None:
            self._reader.note(part)
        return part

    def close(self) -> None:
        """Give up what has not been read, and leave; to be called once."""
        self._answer.close()
        self._stay.leave()
        if self._reader is not None and self._settle is not None:
            self._settle(self._reader.tokens)
