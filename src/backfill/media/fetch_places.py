"""How many fetches run at a time: in all, from one host, and for one owner; and whose turn it is."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["FetchPlaces"]

# Of all places; the last quarter is for the others, however slow what one owner fetches is.
_OWNER_SHARE = 0.75


class FetchPlaces:
    """Places for fetches. Who waits takes no place, and the owner with the fewest running goes first."""

    def __init__(self, places: int, places_per_host: int) -> None:
        self._free = places
        self._per_host = places_per_host
        self._per_owner = max(1, int(places * _OWNER_SHARE))
        self._hosts: Counter[str] = Counter()
        self._owners: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def place(self, host: str, owner: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        waiter = _Waiter(host, owner)
        self._waiting.append(waiter)
        self._give_out()
        try:
            await waiter.turn
            yield
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._take_back(waiter)
                self._give_out()

    def _give_out(self) -> None:
        while self._free:
            # In the order in which they came, among those whose owners have equally many.
            first = min(filter(self._may_begin, self._waiting), key=self._count_running, default=None)
            if first is None:
                return
            self._waiting.remove(first)
            self._free -= 1
            self._hosts[first.host] += 1
            self._owners[first.owner] += 1
            if not first.turn.done():
                first.turn.set_result(None)

    def _may_begin(self, waiter: "_Waiter") -> bool:
        return self._hosts[waiter.host] < self._per_host and self._owners[waiter.owner] < self._per_owner

    def _count_running(self, waiter: "_Waiter") -> int:
        return self._owners[waiter.owner]

    def _take_back(self, waiter: "_Waiter") -> None:
        self._free += 1
        for running, name in ((self._hosts, waiter.host), (self._owners, waiter.owner)):
            running[name] -= 1
            if not running[name]:
                del running[name]


class _Waiter:
    def __init__(self, host: str, owner: str) -> None:
        self.host = host
        self.owner = owner
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
