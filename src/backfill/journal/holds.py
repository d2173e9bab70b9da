"""Which journals are being read: one that is removed meanwhile would tell of another batch than there was.

For one process on its event loop; nobody else removes journals while it works (its lock on the data directory).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["JournalHold", "JournalHolds"]


class JournalHold:
    """Somebody reads a journal, until `release`."""

    def __init__(self, holds: "JournalHolds", batch_id: str) -> None:
        self._holds = holds
        self._batch_id = batch_id
        self._is_released = False

    def release(self) -> None:
        """The journal may go; safe to call twice."""
        if not self._is_released:
            self._is_released = True
            self._holds.note_release(self._batch_id)


class JournalHolds:
    """Readers go before the removal, unless it has begun: then they wait, and find that there is no journal."""

    def __init__(self) -> None:
        self._readers: Counter[str] = Counter()
        self._going: dict[str, asyncio.Event] = {}

    async def take(self, batch_id: str) -> JournalHold:
        """Keep a journal from being removed from now on."""
        while (going := self._going.get(batch_id)) is not None:
            await going.wait()
        self._readers[batch_id] += 1
        return JournalHold(self, batch_id)

    @asynccontextmanager
    async def reading(self, batch_id: str) -> AsyncIterator[None]:
        """The same for as long as the block takes."""
        hold = await self.take(batch_id)
        try:
            yield
        finally:
            hold.release()

    @contextmanager
    def removing(self, batch_id: str) -> Iterator[bool]:
        """Whether the journal may be removed in the block: nobody reads it, and nobody begins to."""
        if batch_id in self._readers or batch_id in self._going:
            yield False
            return
        going = self._going[batch_id] = asyncio.Event()
        try:
            yield True
        finally:
            del self._going[batch_id]
            going.set()

    def note_release(self, batch_id: str) -> None:
        """One who read it is through."""
        self._readers[batch_id] -= 1
        if self._readers[batch_id] <= 0:
            del self._readers[batch_id]
