"""What is being fetched: once, however many ask for it, and no longer than somebody waits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from backfill.media_file import MediaFile

__all__ = ["Flights"]


class _Key(NamedTuple):
    batch_id: str
    key: str


class _Flight:
    def __init__(self, task: "asyncio.Task[MediaFile]") -> None:
        self.task = task
        self.waiters = 0


class Flights:
    """The fetches that are under way."""

    def __init__(self) -> None:
        self._flights: dict[_Key, _Flight] = {}
        self._ending: set[asyncio.Task[MediaFile]] = set()

    async def join(
        self,
        batch_id: str,
        key: str,
        begin: Callable[[], Coroutine[Any, Any, MediaFile]],
        waiting: "set[asyncio.Future[MediaFile]]",
    ) -> MediaFile:
        """Wait for what is fetched already, or begin it.

        While it lasts the wait is one of `waiting`; cancelling that ends the wait alone. The last to go ends the fetch.
        """
        place = _Key(batch_id, key)
        flight = self._flights.get(place)
        if flight is None:
            flight = self._flights[place] = _Flight(asyncio.create_task(begin()))
            flight.task.add_done_callback(lambda task: self._land(place, task))
        flight.waiters += 1
        wait = asyncio.shield(flight.task)
        waiting.add(wait)
        wait.add_done_callback(waiting.discard)
        wait.add_done_callback(lambda _: self._leave(place, flight))
        return await wait

    async def cancel(self, batch_id: str | None = None) -> None:
        """End those of a batch, or all, and wait until nothing of them is left."""
        for place, flight in list(self._flights.items()):
            if batch_id is None or place.batch_id == batch_id:
                self._end(place, flight)
        await self.wait_for_ends()

    async def wait_for_ends(self) -> None:
        """Return when all that was ended has ended."""
        if self._ending:
            await asyncio.wait(set(self._ending))

    def _leave(self, place: _Key, flight: _Flight) -> None:
        flight.waiters -= 1
        if not flight.waiters and self._flights.get(place) is flight and not flight.task.done():
            self._end(place, flight)

    def _end(self, place: _Key, flight: _Flight) -> None:
        # At once, so that nobody joins what is ending.
        del self._flights[place]
        self._ending.add(flight.task)
        flight.task.cancel()

    def _land(self, place: _Key, task: "asyncio.Task[MediaFile]") -> None:
        self._ending.discard(task)
        flight = self._flights.get(place)
        if flight is not None and flight.task is task:
            del self._flights[place]
        if not task.cancelled():
            # Told to those who wait; if nobody does any more, it is nobody's.
            task.exception()
