"""Simulated replicas that fail for a while."""

import asyncio

from backfill.engines import CacheHabit, Lost, LostReason, OnFirstToken, ReplicaLimits, Reply
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile
from bench.simulated.engine import SimulatedEngine
from bench.simulated.replica import SimulatedReplica

__all__ = ["FaultyReplica"]

_ERROR_S = 0.01
"""How long an HTTP 500 takes."""


class FaultyReplica(SimulatedReplica):
    """May die, and may answer 500 to everything."""

    def __init__(
        self,
        name: str,
        engine: SimulatedEngine,
        limits: ReplicaLimits | None = None,
        *,
        cache_habit: CacheHabit = CacheHabit.NONE,
        serves_gauges: bool = True,
    ) -> None:
        super().__init__(name, engine, limits, cache_habit=cache_habit, serves_gauges=serves_gauges)
        self.is_broken = False
        """Whether it answers 500."""
        self.errors = 0
        """Requests that it answered 500, or cut off."""
        self._is_dead = False
        self._sending: set[asyncio.Task[Reply]] = set()

    async def start(self) -> None:
        """Be up.

        Raises:
            EngineUnavailable: it is dead.

        """
        if self._is_dead:
            message = "The simulated engine is dead."
            raise EngineUnavailable(message)
        await super().start()

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        """As a well replica, or as a dead or broken one."""
        if self._is_dead:
            self.address = None
            return Lost(LostReason.UNREACHABLE, "The simulated engine is dead.")
        if self.is_broken:
            self.errors += 1
            await asyncio.sleep(_ERROR_S)
            return Lost(LostReason.SERVER_ERROR, "The simulated engine is broken.", 500)
        sending = asyncio.create_task(super().send(endpoint, body, on_first_token, attachment))
        self._sending.add(sending)
        try:
            await asyncio.wait({sending})
        finally:
            self._sending.discard(sending)
            sending.cancel()
        if sending.cancelled():
            self.errors += 1
            return Lost(LostReason.DISCONNECTED, "The simulated engine died.")
        return sending.result()

    def die(self) -> None:
        """Cut off what is in flight, and take nothing more."""
        self._is_dead = True
        for sending in self._sending:
            sending.cancel()

    def revive(self) -> None:
        """Be there for the next start."""
        self._is_dead = False
