"""Engines that share one memory take turns being loaded, with as few swaps as deadlines allow.

Whoever is loaded stays until it has no line left. It is interrupted for one reason: a batch for another model is due
earlier than all of its own, and three quarters of that batch's time have passed.
"""

import time
from typing import Protocol

import structlog

from backfill.engines import Replica

__all__ = ["Residency", "Resident"]

_TIME_LEFT_SHARE = 0.25
_log = structlog.get_logger(__name__)


class Resident(Protocol):
    """What a residency needs to know of those who share it."""

    replica: Replica

    @property
    def in_flight(self) -> int:
        """Requests that are with the replica now."""

    @property
    def has_unfinished(self) -> bool:
        """Whether lines are there for it, in flight, or waiting for another try."""

    @property
    def due(self) -> tuple[int, int]:
        """Deadline and creation of the batch that is due first, in ms since the epoch."""


class Residency:
    """The memory that some replicas share. One of them is up, or being brought up."""

    def __init__(self) -> None:
        self._holder: Resident | None = None
        self._claims: list[Resident] = []
        self._is_draining = False
        self._is_swapping = False

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
                self._is_draining = any(_is_urgent(claim, resident) for claim in self._waiting())
            return self.may_send(resident)
        if resident not in self._claims:
            self._claims.append(resident)
        first = min(self._waiting(), key=lambda claim: claim.due, default=None)
        if first is not resident or self._is_swapping:
            return False
        if holder.has_unfinished and not _is_urgent(resident, holder):
            self._is_draining = False
            return False
        self._is_draining = True
        if holder.in_flight:
            return False
        await self._swap(holder, resident)
        return True

    async def give_up(self, resident: Resident) -> None:
        """Let others have the memory, as this one could not be started."""
        if self._holder is resident and not self._is_swapping:
            await self._swap(resident, None)

    def _waiting(self) -> list[Resident]:
        return [claim for claim in self._claims if claim.has_unfinished]

    def _take_place(self, resident: Resident | None) -> None:
        self._holder = resident
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
