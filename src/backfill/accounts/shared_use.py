"""What keys use of their limits a minute, told between processes that let live requests in.

Each has a row among those of the workers, in which it says how much it let in. A request waits for no such row: a
process hears of the others once a second, and counts alone where the database is away.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from backfill import __version__
from backfill.errors import StoreUnavailable
from backfill.status import WORKER_MEMORY_MS, LiveUse, WorkerReport, WorkerStatus
from backfill.store import Workers

__all__ = ["CountedUse", "SharedUse"]

_PERIOD_S = 1.0
_IDLE_PERIOD_MS = 5000
_log = structlog.get_logger(__name__)


class CountedUse(Protocol):
    """Who counts, in this process."""

    def tell_use(self) -> Mapping[str, LiveUse]:
        """Key -> what was let in here, for keys that were used of late."""

    def note_others(self, told: Mapping[str, Mapping[str, LiveUse]], silence_s: float) -> None:
        """Other process -> what it told; each of them has told something within so many seconds."""


class SharedUse:
    """Tells and hears until stopped."""

    def __init__(self, workers: Workers, holder: str, counted: CountedUse, clock_ms: Callable[[], int]) -> None:
        """`holder`: the name of this process on leases. `clock_ms`: the clock that all processes share."""
        self._workers = workers
        self._counted = counted
        self._clock_ms = clock_ms
        self._told: Mapping[str, LiveUse] = {}
        self._is_busy = False
        now = clock_ms()
        self._row = WorkerStatus(
            id=holder,
            role="api",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_at_ms=now,
            seen_at_ms=now - _IDLE_PERIOD_MS,
        )
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until `stop` is called."""
        while not self._stopping.is_set():
            try:
                await self.exchange()
            except StoreUnavailable as error:
                _log.warning("other processes cannot be told what keys use now", reason=error.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD_S):
                    await self._stopping.wait()
        with suppress(StoreUnavailable):
            await self._workers.remove(self._row.id)

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def exchange(self) -> None:
        """Tell what is new, and hear what others told; raises StoreUnavailable."""
        use, now = self._counted.tell_use(), self._clock_ms()
        is_due = now - self._row.seen_at_ms >= _IDLE_PERIOD_MS
        # Where anybody uses anything, all wait for what the others tell.
        if is_due or use != self._told or self._is_busy:
            self._row = msgspec.structs.replace(self._row, seen_at_ms=now, report=WorkerReport(live_use=dict(use)))
            await self._workers.tell(self._row, now - WORKER_MEMORY_MS)
            self._told = use
        rows = await self._workers.list()
        others = [row for row in rows if row.role == "api" and row.id != self._row.id]
        living = [row for row in others if not row.is_lost(now)]
        self._is_busy = any(row.report.live_use for row in living)
        silence_ms = now - min((row.seen_at_ms for row in living), default=now)
        self._counted.note_others({row.id: row.report.live_use for row in living}, silence_ms / 1000)
