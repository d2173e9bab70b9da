"""Which deadlines are in danger, among all batches and all workers: one process judges it, and the others read that.

A worker sees its own turns. Whether the deadline of a large batch in slices can be met, or of many small ones that
wait, is a question of all that is due before and of all who work. A look at all of it takes a second or so where much
waits, so that it is one process's duty; what comes of it fits into the row in which it tells of itself.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from backfill.dispatch.crew import Crew
from backfill.dispatch.fair_share import ENDANGERED_MARGIN, PRESSED_MARGIN, Demand, count_endangered, sort_out
from backfill.dispatch.weighing import Pool, Weighed, Weighing, guess_needs, join_pools
from backfill.errors import StoreUnavailable
from backfill.status import Urgency
from backfill.store import Workers
from backfill.turns import DEADLINES, Duties

if TYPE_CHECKING:
    from backfill.plan import Job

__all__ = ["Deadlines", "find_urgency"]

_PERIOD_S = 5.0
# Looking takes time that grows with what waits: no more than a twentieth of all.
_PERIOD_LOOKS = 20
# What is older is not believed: whoever judged it is gone, or cannot.
_BELIEVED_MS = 60_000
# From the judgement until all have read it, twice, since more may have come meanwhile; and for answers to be gathered.
_SLACK_S = 30.0
# Where there is too little time for all, those that are kept are not to be late by a last line.
_RESERVE_S = 10.0
# The last slices of a batch are a quarter of the others (`plan.cut_lines`).
_LAST_TURN = 0.25
_GIVEN_UP_MAX = 500
_log = structlog.get_logger(__name__)


class Deadlines:
    """Judges or reads every few seconds until stopped, and says what came of it."""

    def __init__(
        self,
        weighing: Weighing,
        crew: Crew,
        workers: Workers,
        duties: Duties,
        clock_ms: Callable[[], int],
        note: Callable[[Urgency], None],
    ) -> None:
        """`crew`: whom `weighing` knows. `clock_ms`: the clock that all processes share. `note` is told each time."""
        self.told: Urgency | None = None
        """What this process has to tell the others; None: it is not the one that judges."""
        self._weighing = weighing
        self._crew = crew
        self._workers = workers
        self._duties = duties
        self._clock_ms = clock_ms
        self._note = note
        self._known = Urgency()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until `stop` is called."""
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                self._known = await self._find()
            except StoreUnavailable as error:
                _log.warning("deadlines in danger cannot be told now", reason=error.message)
            except Exception:  # noqa: BLE001 - without it each worker judges by what it has, and that is no reason to end
                _log.warning("deadlines in danger cannot be judged", exc_info=True)
            is_believed = self._clock_ms() - self._known.judged_at_ms < _BELIEVED_MS
            self._note(self._known if is_believed else Urgency())
            pause_s = max(_PERIOD_S, _PERIOD_LOOKS * (time.monotonic() - began_s)) if self.told else _PERIOD_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def _find(self) -> Urgency:
        if await self._duties.has(DEADLINES):
            await self._crew.look()
            weighed = await self._weighing.weigh()
            self.told = find_urgency(weighed, self._find_least_s(weighed), self._find_pools(weighed))
            return self.told
        self.told = None
        report = await self._workers.find_on_duty(DEADLINES)
        return (report and report.urgency) or Urgency()

    def _find_least_s(self, weighed: Weighed) -> dict[str, float]:
        """Batch -> how long one turn on it takes at best."""
        find = self._weighing.work.find_least_s
        return {batch.id: find(batch, needs, weighed.speeds) for batch, needs in weighed.claims}

    def _find_pools(self, weighed: Weighed) -> dict[str, Pool]:
        """Lines -> who serves them."""
        found: dict[str, Pool] = {}
        for batch in weighed.queue:
            for model in guess_needs(batch):
                pool = self._weighing.work.find_pool(model or batch.model_id, batch.endpoint)
                if pool is not None:
                    found[Urgency.name_lines(batch.endpoint, model)] = pool
        return found


def find_urgency(weighed: Weighed, least_s: Mapping[str, float], pools: Mapping[str, Pool]) -> Urgency:
    """What is in danger of all that was weighed. Pure.

    `least_s`: batch -> how long one turn on it takes, which one worker has for himself. `pools`: lines, as `name_lines`
    has them -> who serves them.
    """
    by_pool: defaultdict[Pool, list[Demand[Job]]] = defaultdict(list)
    hopeless: list[Job] = []
    for job in weighed.jobs:
        alone_s = least_s.get(job.batch, 0.0)
        if job.work_s and alone_s > job.left_s:
            hopeless.append(job)
        elif job.work_s:
            by_pool[job.pool].append(_make_demand(job, alone_s))
    due_of: dict[Pool, tuple[int, int]] = {}
    for pool, demands in by_pool.items():
        feasible, too_much = sort_out(demands)
        hopeless += [demand.queue for demand in too_much]
        # All are fast together, and each turn is as slow as one of them: it has to be begun before.
        begun = [
            Demand(job, job.work_s, job.left_s - max(0.0, least_s.get(job.batch, 0.0) - job.work_s))
            for job, _, _ in feasible
        ]
        counts = [count_endangered(begun, _SLACK_S, margin) for margin in (ENDANGERED_MARGIN, PRESSED_MARGIN)]
        lefts = [max((each.queue.left_s for each in feasible[:count]), default=None) for count in counts]
        endangered, pressed = (0 if left_s is None else weighed.now_ms + round(1000 * left_s) for left_s in lefts)
        due_of[pool] = (endangered, pressed)
    joined = join_pools({*pools.values(), *by_pool})
    due = {lines: due_of[joined[pool]] for lines, pool in pools.items() if any(due_of.get(joined[pool], ()))}
    last_s = (max((pressed for _, pressed in due_of.values()), default=0) - weighed.now_ms) / 1000
    given_up = sorted((job.left_s, job.batch) for job in hopeless if job.left_s <= last_s)[:_GIVEN_UP_MAX]
    return Urgency(weighed.now_ms, due, frozenset(batch for _, batch in given_up))


def _make_demand(job: "Job", alone_s: float) -> Demand["Job"]:
    """With some time in reserve, unless it could not be done in time alone then."""
    left_s = job.left_s - _LAST_TURN * max(0.0, alone_s - job.work_s) - _RESERVE_S
    return Demand(job, job.work_s, left_s if job.work_s <= left_s else job.left_s)
