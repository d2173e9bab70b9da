"""Says when batches will be done: what is left of each, at the speed of those who serve it, in the order of turns."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from backfill.batch import Batch
from backfill.dispatch.weighing import Claim, KnownWork, Weighing, join_jobs, make_jobs, meet
from backfill.errors import StoreUnavailable
from backfill.plan import Job, forecast
from backfill.status import Forecast
from backfill.store import QueuedBatch
from backfill.store.database import Database
from backfill.turns import now_ms

__all__ = ["Forecaster"]

# Looking takes time that grows with what waits: it is done no more often than lets it take a fiftieth of all time.
_KEPT_S = 2.0
_KEPT_LOOKS = 50
# Of a new batch beside more than these only what is due before it is counted.
_JOBS_SIMULATED = 200


@dataclass
class _Look:
    """What was found the last time."""

    now_ms: int = 0
    taken_s: float = float("-inf")
    cost_s: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    done: dict[str, int | None] = field(default_factory=dict)
    """Batch -> when it will be done, in ms since the epoch; None: not known."""


class Forecaster:
    """Looks at all that waits, when it is asked and the last look is old."""

    def __init__(self, database: Database, work: KnownWork, clock_ms: Callable[[], int] = now_ms) -> None:
        self._weighing = Weighing(database, work, clock_ms)
        self._clock_ms = clock_ms
        self._lock = asyncio.Lock()
        self._look = _Look()

    async def find(self, batch: Batch) -> Forecast | None:
        """When a batch that has not ended will be done; None where nothing tells."""
        if batch.state.is_final or batch.state.is_closing:
            return None
        look = await self._look_again()
        if batch.id not in look.done:
            # It came since: it is made out beside what was found, and counts for those that come after it.
            look.done[batch.id], jobs = self._find_new(look, batch)
            look.jobs += jobs
        return _tell(batch, look.done[batch.id])

    async def foresee(self, batch: Batch) -> Forecast | None:
        """As `find`, of a batch that is not made: it counts for no other."""
        done_at_ms, _ = self._find_new(await self._look_again(), batch)
        return _tell(batch, done_at_ms)

    async def _look_again(self) -> _Look:
        async with self._lock:
            began_s = time.monotonic()
            if began_s - self._look.taken_s < max(_KEPT_S, _KEPT_LOOKS * self._look.cost_s):
                return self._look
            try:
                weighed = await self._weighing.weigh()
            except StoreUnavailable:
                # What is asked about was read or written a moment ago: that must not fail for want of a guess.
                return self._look if self._look.now_ms else _Look(self._clock_ms())
            now, speeds, jobs, work = weighed.now_ms, weighed.speeds, weighed.jobs, self._weighing.work
            least_s = {batch.id: work.find_least_s(batch, needs, speeds) for batch, needs in weighed.claims}
            done_s = {batch: max(seconds, least_s[batch]) for batch, seconds in forecast(jobs).items()}
            done: dict[str, int | None] = {batch.id: None for batch in weighed.queue}
            done |= {
                str(batch): now + round(1000 * seconds)
                for batch, seconds in done_s.items()
                if batch not in weighed.unknown
            }
            taken_s = time.monotonic()
            self._look = _Look(now, taken_s, taken_s - began_s, jobs, done)
            return self._look

    def _find_new(self, look: _Look, batch: Batch) -> tuple[int | None, list[Job]]:
        """When it will be done beside what was found, and its jobs."""
        queued = QueuedBatch(**{name: getattr(batch, name) for name in QueuedBatch.__struct_fields__})
        needs, speeds = self._weighing.find_needs(queued) or {}, self._weighing.find_speeds()
        jobs, unknown = make_jobs([Claim(queued, needs)], speeds, look.now_ms)
        if unknown or not jobs:
            return None, []
        beside = [job for job in look.jobs if any(meet(job.pool, own.pool) for own in jobs)]
        if len(beside) <= _JOBS_SIMULATED:
            seconds = forecast(join_jobs([*beside, *jobs]))[batch.id]
        else:
            before_s = sum(job.work_s for job in beside if job.left_s <= jobs[0].left_s)
            seconds = before_s + sum(job.work_s for job in jobs)
        seconds = max(seconds, self._weighing.work.find_least_s(queued, needs, speeds))
        return look.now_ms + round(1000 * seconds), jobs


def _tell(batch: Batch, done_at_ms: int | None) -> Forecast | None:
    return None if done_at_ms is None else Forecast(done_at_ms, is_late=done_at_ms > batch.deadline_at_ms)
