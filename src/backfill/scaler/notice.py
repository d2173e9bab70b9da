"""What the scaler tells the other processes: which models there are though no worker runs, and what keeps one."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog

from backfill import __version__
from backfill.engines import Fleet
from backfill.errors import StoreUnavailable
from backfill.scaler.cluster import Phase, Placed
from backfill.status import WORKER_MEMORY_MS, Bottleneck, ReplicaState, ReplicaStatus, WorkerReport, WorkerStatus
from backfill.store import Workers

__all__ = ["Notice", "ReplicasNow"]

_PERIOD_S = 5.0
_TOLD_IN_A_LEASE = 6
_MODELS_PATIENCE_S = 2.0
_log = structlog.get_logger(__name__)


class ReplicasNow(NamedTuple):
    """Of one engine."""

    placed: Sequence[Placed]
    chosen: int
    """How many there should be."""


class Notice:
    """The scaler's row among those of the workers. An engine of which no replica is up stands there in its place."""

    def __init__(self, workers: Workers, holder: str, fleet: Fleet, clock_ms: Callable[[], int], lease_ms: int) -> None:
        """`fleet`: the engines that are placed; none of them is started."""
        self.replicas: dict[str, ReplicasNow] = {}
        """Engine -> its replicas; none of one that another scaler cares for."""
        self.trouble = ""
        """Why nothing can be decided; empty: it can."""
        self._workers = workers
        self._fleet = fleet
        self._clock_ms = clock_ms
        self._period_s = min(_PERIOD_S, lease_ms / 1000 / _TOLD_IN_A_LEASE)
        self._due_s = float("-inf")
        self._told: Mapping[str, ReplicasNow] = {}
        started_at_ms = clock_ms()
        self._row = WorkerStatus(
            id=holder,
            role="scale",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_at_ms=started_at_ms,
            seen_at_ms=started_at_ms,
        )

    async def tell(self) -> None:
        """Write the row if it is time, or if something has changed; never raises."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._due_s and self._told == self.replicas:
            return
        self._due_s, self._told = loop.time() + self._period_s, dict(self.replicas)
        models = self._row.report.models
        with suppress(TimeoutError):
            async with asyncio.timeout(_MODELS_PATIENCE_S):
                models = tuple(await self._fleet.list_models())
        any_model_at = self._fleet.endpoints_of_any
        report = WorkerReport(models=models, any_model_at=any_model_at, replicas=self._describe())
        await self._write(report)

    async def withdraw(self) -> None:
        """Tell that it has ended, and which models there may be again; never raises."""
        await self._write(self._row.report.end())

    async def _write(self, report: WorkerReport) -> None:
        now = self._clock_ms()
        self._row = msgspec.structs.replace(self._row, seen_at_ms=now, report=report)
        with suppress(StoreUnavailable):
            await self._workers.tell(self._row, now - WORKER_MEMORY_MS)

    def _describe(self) -> tuple[ReplicaStatus, ...]:
        return tuple(
            _describe(engine, now, self.trouble)
            for engine, now in self.replicas.items()
            if not any(one.phase is Phase.UP for one in now.placed)
        )


def _describe(engine: str, now: ReplicasNow, trouble: str) -> ReplicaStatus:
    reasons = [trouble, *(one.trouble for one in now.placed)]
    told = next((reason for reason in reasons if reason), None)
    if told is None and not now.chosen:
        told = "No replica runs on Ray, since nothing waits for one."
    return ReplicaStatus(
        name=engine,
        state=ReplicaState.STARTING if now.chosen else ReplicaState.DOWN,
        bottleneck=Bottleneck.WORK,
        in_flight=0,
        concurrency_limit=0,
        concurrency_ceiling=0,
        requests_per_s=0.0,
        completion_tokens_per_s=0.0,
        answered=0,
        lost=0,
        rate_limited=0,
        reused=0,
        prompt_tokens=0,
        completion_tokens=0,
        cached_tokens=0,
        trouble=told,
    )
