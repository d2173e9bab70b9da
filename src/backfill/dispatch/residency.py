"""Engines that share one memory take turns being loaded, with as few swaps as deadlines allow.

Whoever is loaded stays until it has no line left. It is interrupted for two reasons: a batch for another model is due
earlier than all of its own, and three quarters of that batch's time have passed; or somebody waits for another model
who has nothing to be done by this one, which has been loaded for ten minutes.
"""

import asyncio
import time
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog

from backfill.dispatch.live_share import LiveShare
from backfill.engines import Replica

__all__ = ["Residency", "Resident"]

_TIME_LEFT_SHARE = 0.25
# Much longer than it takes to load a model, so that little of the time is lost with that.
_STAY_S = 600.0
_log = structlog.get_logger(__name__)


class Resident(Protocol):
    """What a residency needs to know of those who share it."""

    replica: Replica

    @property
    def in_flight(self) -> int:
        """Requests that are with the replica now."""

    @property
    def live(self) -> LiveShare:
        """The live requests that are with it."""

    @property
    def has_unfinished(self) -> bool:
        """Whether lines are there for it, in flight, or waiting for another try."""

    @property
    def due(self) -> tuple[int, int]:
        """Deadline and creation of the batch that is due first, in ms since the epoch."""

    @property
    def owners(self) -> AbstractSet[str]:
        """Whose lines are there for it, or wait for another try."""


class Residency:
    """The memory that some replicas share. One of them is up, or being brought up."""

    def __init__(self) -> None:
        self._holder: Resident | None = None
        self._claims: list[Resident] = []
        self._is_draining = False
        self._is_swapping = False
        self._since_s = 0.0

    def find_rival(self, resident: Resident) -> str | None:
        """The name of the replica that is up in its stead."""
        return self._holder.replica.name if self._holder not in (None, resident) else None

    def may_send(self, resident: Resident) -> bool:
        """Whether a replica that is up may be given more lines."""
        return self._holder is resident and not self._is_draining

    async def claim(self, resident: Resident) -> bool:
        """Ask to be up; False: not now, ask again. Stops the replica that was up before."""
        holder = self._holder
        if holder is None:
            self._take_place(resident)
            return True
        if holder is resident:
            if self._is_draining and not self._is_swapping:
                # Whoever it was interrupted for may have been cancelled.
                self._is_draining = any(self._interrupts(claim, resident) for claim in self._waiting())
            return self.may_send(resident)
        if resident not in self._claims:
            self._claims.append(resident)
        if self._find_first(holder) is not resident or self._is_swapping:
            return False
        if holder.has_unfinished and not self._interrupts(resident, holder):
            self._is_draining = False
            return False
        self._is_draining = True
        if holder.in_flight or holder.live.presence.running:
            return False
        await self._swap(holder, resident)
        return True

    async def give_up(self, resident: Resident) -> None:
        """Let others have the memory, as this one could not be started."""
        if self._holder is resident and not self._is_swapping:
            await self._swap(resident, None)

    def _waiting(self) -> list[Resident]:
        return [claim for claim in self._claims if claim.has_unfinished]

    def _find_first(self, holder: Resident) -> Resident | None:
        """Who is next: one whose deadline is near, else who waits longest for a turn, else who is due first."""
        waiting = self._waiting()
        urgent = [claim for claim in waiting if _is_urgent(claim, holder)]
        owed = next((claim for claim in waiting if self._is_owed(claim, holder)), None)
        if owed is not None and not urgent:
            return owed
        return min(urgent or waiting, key=lambda claim: claim.due, default=None)

    def _interrupts(self, claimant: Resident, holder: Resident) -> bool:
        return _is_urgent(claimant, holder) or self._is_owed(claimant, holder)

    def _is_owed(self, claimant: Resident, holder: Resident) -> bool:
        """Whether somebody has waited long enough for a model who has nothing to be done by the one that is loaded."""
        stayed_s = asyncio.get_running_loop().time() - self._since_s
        return stayed_s >= _STAY_S and holder.has_unfinished and bool(claimant.owners - holder.owners)

    def _take_place(self, resident: Resident | None) -> None:
        self._holder = resident
        self._since_s = asyncio.get_running_loop().time()
        self._is_draining = False
        self._claims = [claim for claim in self._claims if claim is not resident]

    async def _swap(self, before: Resident, after: Resident | None) -> None:
        self._is_swapping = True
        try:
            if after is not None:
                _log.info("engines swapped", stops=before.replica.name, starts=after.replica.name)
            await before.replica.stop()
            self._take_place(after)
        finally:
            self._is_swapping = False


def _is_urgent(claimant: Resident, holder: Resident) -> bool:
    deadline_ms, created_ms = claimant.due
    time_left_ms = deadline_ms - time.time_ns() // 1_000_000
    return claimant.due < holder.due and time_left_ms < (deadline_ms - created_ms) * _TIME_LEFT_SHARE
