"""What all that waits needs of whom, in seconds: from rows, from what engines did, and from what is told of turns.

Who forecasts and who judges which deadlines are in danger both begin with it.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from backfill.batch import Reservation, fit_to_endpoint
from backfill.dispatch.work_left import Ratios
from backfill.index import DEFAULT_ANSWER_TOKENS
from backfill.plan import Estimating, Job, Need, Speed, Team
from backfill.store import EndedBatch, QueuedBatch, read_ended, read_queue
from backfill.store.database import Database
from backfill.turns import now_ms

__all__ = [
    "Claim",
    "Estimating",
    "KnownWork",
    "Pool",
    "Weighed",
    "Weighing",
    "find_team",
    "guess_needs",
    "join_jobs",
    "join_pools",
    "make_jobs",
    "measure_ended",
    "meet",
]

Pool = frozenset[str]
"""The names of replicas."""

_QUEUE_MAX = 20_000
# So many batches tell how fast engines were before this process.
_ENDED_MAX = 40
_ENDED_KEPT_S = 30.0
_BYTES_A_TOKEN = 4


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


class Claim(NamedTuple):
    """What a batch needs of whom."""

    batch: QueuedBatch
    needs: Mapping[Pool, Need]


class Weighed(NamedTuple):
    """All that waits, at one time."""

    now_ms: int
    queue: Sequence[QueuedBatch]
    """The earliest deadline first; those with later ones are missing where there are very many."""
    speeds: Mapping[str, Estimating]
    claims: Sequence[Claim]
    """Of those batches of which it is known who serves them."""
    jobs: list[Job]
    unknown: set[str]
    """Batches of which it is not known how long they take."""


class Weighing:
    """Looks anew at each call; how fast engines were it remembers."""

    def __init__(self, database: Database, work: KnownWork, clock_ms: Callable[[], int] = now_ms) -> None:
        self._database = database
        self.work = work
        self._clock_ms = clock_ms
        self._before: dict[Pool, tuple[Speed, Ratios]] = {}
        self._before_due_s = float("-inf")

    async def weigh(self) -> Weighed:
        """Raises StoreUnavailable."""
        queue = await read_queue(self._database, _QUEUE_MAX)
        await self.work.look(queue)
        began_s = time.monotonic()
        if began_s >= self._before_due_s:
            self._before = measure_ended(await read_ended(self._database, _ENDED_MAX), self.work.find_pool)
            self._before_due_s = began_s + _ENDED_KEPT_S
        now = self._clock_ms()
        speeds = self.find_speeds()
        needed = ((batch, self.find_needs(batch)) for batch in queue)
        claims = [Claim(batch, needs) for batch, needs in needed if needs is not None]
        jobs, unknown = make_jobs(claims, speeds, now)
        return Weighed(now, queue, speeds, claims, jobs, unknown)

    def find_speeds(self) -> dict[str, Estimating]:
        """Replica -> how fast it is; of one that did nothing yet, what ended batches tell."""
        speeds = self.work.list_speeds()
        for pool, (speed, _) in self._before.items():
            missing = [name for name in pool if name not in speeds]
            if len(missing) == len(pool):
                # Together they were that fast, so one of them stands for all.
                speeds[missing[0]] = speed
        return speeds

    def find_needs(self, batch: QueuedBatch) -> Mapping[Pool, Need] | None:
        """Who serves a batch -> what is left for them; None: not known."""
        guessed: dict[Pool, Need] = {}
        for model, need in guess_needs(batch).items():
            serving = self.work.find_pool(model or batch.model_id, batch.endpoint)
            if serving is not None:
                guessed[serving] = guessed.get(serving, Need()).plus(need)
        return self.work.find_left(batch, guessed, self._find_usual) or None

    def _find_usual(self, pool: Pool) -> Ratios:
        known = self.work.find_ratios(pool)
        return known or self._before.get(pool, (None, Ratios()))[1]


def make_jobs(claims: Iterable[Claim], speeds: Mapping[str, Estimating], now: int) -> tuple[list[Job], set[str]]:
    """What each batch needs as time of those who serve it, and the batches of which that is not known."""
    jobs: list[Job] = []
    unknown: set[str] = set()
    teams: dict[Pool, Estimating | None] = {}
    for batch, needs in claims:
        rank = (-batch.priority, batch.deadline_at_ms, batch.created_at_ms, batch.id)
        left_s = (batch.deadline_at_ms - now) / 1000
        for pool, need in needs.items():
            if pool not in teams:
                teams[pool] = find_team(pool, speeds)
            team = teams[pool]
            if any(need) and team is None:
                unknown.add(batch.id)
            else:
                seconds = 0.0 if team is None else team.estimate_s(need)
                jobs.append(Job(batch.id, batch.owner, rank, pool, seconds, left_s, sum(need)))
    return join_jobs(jobs), unknown


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
        meeting = [group for group in groups if meet(group, pool)]
        groups = [group for group in groups if group not in meeting]
        groups.append(pool.union(*meeting))
    return {pool: next(group for group in groups if pool <= group) for pool in pools}


def join_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The same, each for all who have to do with its pool, directly or by way of others."""
    joined = join_pools({job.pool for job in jobs})
    return [job._replace(pool=joined[job.pool]) for job in jobs]


def meet(one: Pool, other: Pool) -> bool:
    """Whether a replica is in both."""
    return not one.isdisjoint(other)


def find_team(pool: Iterable[str], speeds: Mapping[str, Estimating]) -> Estimating | None:
    """How fast these replicas are together; None if of none of them anything is known."""
    known = [speeds[name] for name in pool if name in speeds]
    return Team(known) if known else None
