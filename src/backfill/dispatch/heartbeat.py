"""What a process with engines tells the others of itself, every few seconds, in a row of its own."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from backfill import __version__
from backfill.dispatch.dispatcher import Dispatcher
from backfill.dispatch.told_work import ToldWork
from backfill.engines import Fleet
from backfill.errors import StoreUnavailable
from backfill.status import WORKER_MEMORY_MS, Urgency, WorkerReport, WorkerStatus
from backfill.store import Workers

__all__ = ["Heartbeat"]

_PERIOD_S = 5.0
# Before the others take over what a silent process had, it has told of itself a few times.
_TOLD_IN_A_LEASE = 6
_MODELS_PATIENCE_S = 2.0
_log = structlog.get_logger(__name__)


class Heartbeat:
    """Tells of this process until stopped; one that ends properly says so, and what it served."""

    def __init__(
        self,
        workers: Workers,
        holder: str,
        dispatcher: Dispatcher,
        fleet: Fleet,
        clock_ms: Callable[[], int],
        lease_ms: int,
    ) -> None:
        """`holder`: the name of this process on leases. `clock_ms`: the clock that all processes share."""
        self.address = ""
        """Where this process answers what others pass on; empty: nowhere."""
        self.find_urgency: Callable[[], Urgency | None] = lambda: None
        """What this process has to say of deadlines, if it is the one that judges them."""
        self._workers = workers
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._clock_ms = clock_ms
        self._period_s = min(_PERIOD_S, lease_ms / 1000 / _TOLD_IN_A_LEASE)
        started_at_ms = clock_ms()
        self._worker = WorkerStatus(
            id=holder,
            role="work",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_at_ms=started_at_ms,
            seen_at_ms=started_at_ms,
        )
        self._work = ToldWork()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Tell until `stop` is called."""
        while not self._stopping.is_set():
            try:
                await self._tell()
            except StoreUnavailable as error:
                _log.warning("other processes cannot be told of this one now", reason=error.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._stopping.wait()
        with suppress(StoreUnavailable):
            await self._write(self._worker.report.end())

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def _tell(self) -> None:
        with suppress(TimeoutError):
            # An engine that does not answer keeps what it said last.
            async with asyncio.timeout(_MODELS_PATIENCE_S):
                models = tuple(await self._fleet.list_models())
                self._worker = msgspec.structs.replace(self._worker, report=WorkerReport(models=models))
        left = self._dispatcher.left
        report = msgspec.structs.replace(
            self._worker.report,
            replicas=self._dispatcher.replica_statuses,
            batches=self._dispatcher.open_batches,
            token_s={name: pace.speed.token_s for name, pace in self._dispatcher.paces.items() if pace.speed.is_known},
            any_model_at=self._fleet.endpoints_of_any,
            left_batches=left.told,
            left_slices=left.told_slices,
            offers=self._fleet.offers,
            address=self.address,
            urgency=self.find_urgency(),
        )
        await self._write(self._work.add(report, self._dispatcher.work_left))

    async def _write(self, report: WorkerReport) -> None:
        now = self._clock_ms()
        self._worker = msgspec.structs.replace(self._worker, seen_at_ms=now, report=report)
        await self._workers.tell(self._worker, now - WORKER_MEMORY_MS)
