"""Other processes on the same rows: they are told when something has changed here, and wake this one likewise."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from backfill.store import BATCHES, Callouts, ChangeMark
from backfill.turns.duties import Duties

__all__ = ["Company", "Neighbours"]

# A look is a read of 16 bytes that lie in memory.
_PERIOD_S = 0.05


class Neighbours:
    """A hint, as a `Bell` is: nothing depends on it but the waiting time."""

    def __init__(self, mark: ChangeMark, callouts: Callouts | None = None) -> None:
        """`callouts`: the way to processes that do not see the mark; None: there are none."""
        self._mark = mark
        self._callouts = callouts
        self._seen = mark.read()
        self._stopping = asyncio.Event()

    def tell(self) -> None:
        """A batch was changed here."""
        self._mark.renew()
        # What others changed at this very moment is found at the next tick of each loop.
        self._seen = self._mark.read()
        if self._callouts is not None:
            self._callouts.tell(BATCHES)

    async def listen(self, ring: Callable[[], None]) -> None:
        """Call `ring` whenever another process has changed a batch, until `stop`."""
        while not self._stopping.is_set():
            now = self._mark.read()
            if now != self._seen:
                self._seen = now
                ring()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD_S):
                    await self._stopping.wait()

    def stop(self) -> None:
        """End `listen`."""
        self._stopping.set()


class Company(NamedTuple):
    """In what company a process works on a data directory."""

    duties: Duties
    """What it does of that which one process does at a time."""
    neighbours: Neighbours | None
    """The others; None: there can be none."""
    holder: str
    """Its own name on leases."""
    place: str = ""
    """With what the names of all holders begin that work in the same data directory."""
