"""Says when batches will be done: what is left of each, at the speed of those who serve it, in the order of turns."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from backfill.batch import Batch, Reservation, fit_to_endpoint
from backfill.dispatch.work_left import Ratios
from backfill.errors import StoreUnavailable
from backfill.index import DEFAULT_ANSWER_TOKENS
from backfill.plan import Job, Need, Speed, forecast
from backfill.status import Forecast
from backfill.store import EndedBatch, QueuedBatch, read_ended, read_queue
from backfill.store.database import Database
from backfill.turns import now_ms

__all__ = [
    "Claim",
    "Estimating",
    "Forecaster",
    "KnownWork",
    "Pool",
    "estimate_together_s",
    "guess_needs",
    "join_pools",
    "make_jobs",
    "measure_ended",
]

Pool = frozenset[str]
"""The names of replicas."""

# Looking takes time that grows with what waits: it is done no more often than lets it take a fiftieth of all time.
_KEPT_S = 2.0
_KEPT_LOOKS = 50
_QUEUE_MAX = 20_000
# So many batches tell how fast engines were before this process.
_ENDED_MAX = 40
_ENDED_KEPT_S = 30.0
# Of a new batch beside more than these only what is due before it is counted.
_JOBS_SIMULATED = 200
_BYTES_A_TOKEN = 4


class Estimating(Protocol):
    """How fast one engine is, or several together are."""

    def estimate_s(self, need: Need) -> float:
        """How long that takes if nothing else is computed meanwhile."""


class KnownWork(Protocol):
    """What a process knows of those who serve lines, and of what is left for them."""

    async def look(self, queue: Sequence[QueuedBatch]) -> None:
        """Find out what is to be known of these now; raises StoreUnavailable."""

    def find_pool(self, model: str | None, endpoint: str) -> Pool | None:
        """Who serves the model there; None: nobody."""

    def list_speeds(self) -> dict[str, Estimating]:
        """Replica -> how fast it is, where that is known."""

    def find_ratios(self, pool: Pool) -> Ratios | None:
        """How many tokens come for each that was guessed, of what is worked on; None: not known."""

    def find_left(
        self, batch: QueuedBatch, guessed: Mapping[Pool, Need], find_usual: Callable[[Pool], Ratios]
    ) -> Mapping[Pool, Need]:
        """What is left of a batch that was guessed to need all that; `find_usual`: the ratios to put it right with."""

    def find_least_s(self, batch: QueuedBatch, needs: Mapping[Pool, Need], speeds: Mapping[str, Estimating]) -> float:
        """How long that takes whatever else waits: where not all who serve it may work on it at once."""


@dataclass
class _Look:
    """What was found the last time."""

    now_ms: int = 0
    taken_s: float = float("-inf")
    cost_s: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    done: dict[str, int | None] = field(default_factory=dict)
    """Batch -> when it will be done, in ms since the epoch; None: not known."""


class Claim(NamedTuple):
    """What a batch needs of whom."""

    batch: QueuedBatch
    needs: Mapping[Pool, Need]


class Forecaster:
    """Looks at all that waits, when it is asked and the last look is old."""

    def __init__(self, database: Database, work: KnownWork, clock_ms: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._work = work
        self._clock_ms = clock_ms
        self._lock = asyncio.Lock()
        self._look = _Look()
        self._before: dict[Pool, tuple[Speed, Ratios]] = {}
        self._before_due_s = float("-inf")

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
                queue = await read_queue(self._database, _QUEUE_MAX)
                await self._work.look(queue)
                ended = await read_ended(self._database, _ENDED_MAX) if began_s >= self._before_due_s else None
            except StoreUnavailable:
                # What is asked about was read or written a moment ago: that must not fail for want of a guess.
                return self._look if self._look.now_ms else _Look(self._clock_ms())
            if ended is not None:
                self._before = measure_ended(ended, self._work.find_pool)
                self._before_due_s = began_s + _ENDED_KEPT_S
            now = self._clock_ms()
            speeds = self._find_speeds()
            needed = ((batch, self._find_needs(batch)) for batch in queue)
            claims = [Claim(batch, needs) for batch, needs in needed if needs is not None]
            jobs, unknown = make_jobs(claims, speeds, now)
            least_s = {batch.id: self._work.find_least_s(batch, needs, speeds) for batch, needs in claims}
            done_s = {batch: max(seconds, least_s[batch]) for batch, seconds in forecast(jobs).items()}
            done: dict[str, int | None] = {batch.id: None for batch in queue}
            done |= {
                str(batch): now + round(1000 * seconds) for batch, seconds in done_s.items() if batch not in unknown
            }
            taken_s = time.monotonic()
            self._look = _Look(now, taken_s, taken_s - began_s, jobs, done)
            return self._look

    def _find_new(self, look: _Look, batch: Batch) -> tuple[int | None, list[Job]]:
        """When it will be done beside what was found, and its jobs."""
        queued = QueuedBatch(**{name: getattr(batch, name) for name in QueuedBatch.__struct_fields__})
        needs, speeds = self._find_needs(queued) or {}, self._find_speeds()
        jobs, unknown = make_jobs([Claim(queued, needs)], speeds, look.now_ms)
        if unknown or not jobs:
            return None, []
        beside = [job for job in look.jobs if any(_meet(job.pool, own.pool) for own in jobs)]
        if len(beside) <= _JOBS_SIMULATED:
            seconds = forecast(_join([*beside, *jobs]))[batch.id]
        else:
            before_s = sum(job.work_s for job in beside if job.left_s <= jobs[0].left_s)
            seconds = before_s + sum(job.work_s for job in jobs)
        seconds = max(seconds, self._work.find_least_s(queued, needs, speeds))
        return look.now_ms + round(1000 * seconds), jobs

    def _find_speeds(self) -> dict[str, Estimating]:
        """Replica -> how fast it is; of one that did nothing yet, what ended batches tell."""
        speeds = self._work.list_speeds()
        for pool, (speed, _) in self._before.items():
            missing = [name for name in pool if name not in speeds]
            if len(missing) == len(pool):
                # Together they were that fast, so one of them stands for all.
                speeds[missing[0]] = speed
        return speeds

    def _find_needs(self, batch: QueuedBatch) -> Mapping[Pool, Need] | None:
        """Who serves a batch -> what is left for them; None: not known."""
        guessed: dict[Pool, Need] = {}
        for model, need in guess_needs(batch).items():
            serving = self._work.find_pool(model or batch.model_id, batch.endpoint)
            if serving is not None:
                guessed[serving] = guessed.get(serving, Need()).plus(need)
        return self._work.find_left(batch, guessed, self._find_usual) or None

    def _find_usual(self, pool: Pool) -> Ratios:
        known = self._work.find_ratios(pool)
        return known or self._before.get(pool, (None, Ratios()))[1]


def _tell(batch: Batch, done_at_ms: int | None) -> Forecast | None:
    return None if done_at_ms is None else Forecast(done_at_ms, is_late=done_at_ms > batch.deadline_at_ms)


def make_jobs(claims: Iterable[Claim], speeds: Mapping[str, Estimating], now: int) -> tuple[list[Job], set[str]]:
    """What each batch needs as time of those who serve it, and the batches of which that is not known."""
    jobs: list[Job] = []
    unknown: set[str] = set()
    for batch, needs in claims:
        rank = (-batch.priority, batch.deadline_at_ms, batch.created_at_ms, batch.id)
        for pool, need in needs.items():
            seconds = estimate_together_s(need, [speeds[name] for name in pool if name in speeds])
            if seconds is None:
                unknown.add(batch.id)
            else:
                left_s = (batch.deadline_at_ms - now) / 1000
                jobs.append(Job(batch.id, batch.owner, rank, pool, seconds, left_s, sum(need)))
    return _join(jobs), unknown


def measure_ended(
    ended: Sequence[EndedBatch], find_pool: Callable[[str | None, str], Pool | None]
) -> dict[Pool, tuple[Speed, Ratios]]:
    """How fast engines were by what ended batches used, in all the time in which one of them was at work."""
    by_pool: dict[Pool, list[EndedBatch]] = {}
    for batch in ended:
        pool = find_pool(batch.model_id, batch.endpoint)
        if pool is not None and any(batch.counts.usage):
            by_pool.setdefault(pool, []).append(batch)
    return {pool: (_measure_speed(those), _measure_ratios(those)) for pool, those in by_pool.items()}


def _measure_speed(ended: Sequence[EndedBatch]) -> Speed:
    busy_ms, until_ms = 0, 0
    for began_ms, ended_ms in sorted((batch.started_at_ms, batch.closing_at_ms) for batch in ended):
        busy_ms += max(0, ended_ms - max(began_ms, until_ms))
        until_ms = max(until_ms, ended_ms)
    speed = Speed()
    speed.observe(busy_ms / 1000, _sum_used(ended))
    return speed


def _measure_ratios(ended: Sequence[EndedBatch]) -> Ratios:
    guessed = Need()
    for batch in ended:
        for need in guess_needs(batch).values():
            guessed = guessed.plus(need)
    used = _sum_used(ended)
    return Ratios(
        used.prompt_tokens / guessed.prompt_tokens if guessed.prompt_tokens else 1.0,
        used.completion_tokens / guessed.completion_tokens if guessed.completion_tokens else 1.0,
    )


def guess_needs(batch: QueuedBatch | EndedBatch) -> dict[str, Need]:
    """Model -> what a batch was taken to need when it was made; by its size, where nothing else was noted."""
    if batch.reserved:
        # Without the correction that was in it already: the ratios that this is multiplied by hold one of their own.
        return {
            name: Need(each.prompt_tokens * 1000 / each.prompt_per_mille, each.completion_tokens)
            for name, each in batch.reserved.items()
        }
    lines = batch.counts.total
    guessed = Reservation(lines, batch.input_size_bytes // _BYTES_A_TOKEN, DEFAULT_ANSWER_TOKENS * lines)
    need = fit_to_endpoint(guessed, batch.endpoint)
    return {batch.model_id or "": Need(need.prompt_tokens, need.completion_tokens)}


def _sum_used(ended: Iterable[EndedBatch]) -> Need:
    used = Need()
    for batch in ended:
        usage = batch.counts.usage
        prompt_tokens = usage.prompt_tokens - usage.cached_tokens + usage.audio_tokens
        used = used.plus(Need(prompt_tokens, usage.completion_tokens))
    return used


def join_pools(pools: Collection[Pool]) -> dict[Pool, Pool]:
    """Pool -> it and all with which it shares replicas, directly or by way of others."""
    groups: list[Pool] = []
    for pool in pools:
        meeting = [group for group in groups if _meet(group, pool)]
        groups = [group for group in groups if group not in meeting]
        groups.append(pool.union(*meeting))
    return {pool: next(group for group in groups if pool <= group) for pool in pools}


def _join(jobs: Sequence[Job]) -> list[Job]:
    joined = join_pools({job.pool for job in jobs})
    return [job._replace(pool=joined[job.pool]) for job in jobs]


def _meet(one: Pool, other: Pool) -> bool:
    return not one.isdisjoint(other)


def estimate_together_s(need: Need, speeds: Sequence[Estimating]) -> float | None:
    """How long these take together; None if of none of them anything is known."""
    if not any(need):
        return 0.0
    each_s = [speed.estimate_s(need) for speed in speeds]
    return 1 / sum(1 / max(seconds, 1e-9) for seconds in each_s) if each_s else None
