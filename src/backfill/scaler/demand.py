"""What waits for each engine, as replica-seconds: from the rows of batches, and from what workers tell of theirs."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from backfill.dispatch.forecaster import Pool, guess_needs, measure_ended
from backfill.dispatch.work_left import Ratios
from backfill.engines import Fleet
from backfill.plan import Demand, Need, Speed
from backfill.status import WorkerStatus
from backfill.store import QueuedBatch, count_slices_left, read_ended, read_queue
from backfill.store.database import Database

__all__ = ["DemandReader", "EngineDemand"]

_QUEUE_MAX = 20_000
_ENDED_MAX = 40
_ENDED_KEPT_S = 30.0
_Pace = tuple[float, float]
"""Seconds for a token of a prompt and of an answer."""


@dataclass
class EngineDemand:
    """Of one engine."""

    demands: list[Demand] = field(default_factory=list)
    free_turns: int = 0
    """Batches, or slices of one that was cut, that no worker has; a few more, where a worker has several slices."""


class DemandReader:
    """Reads anew at each call; how fast engines are it remembers while none runs."""

    def __init__(self, database: Database, fleet: Fleet) -> None:
        """`fleet`: the engines that are counted; none of them is started."""
        self._database = database
        self._fleet = fleet
        self._engines = [replica.name for replica in fleet.replicas]
        self._paces: dict[str, _Pace] = {}
        self._before: dict[Pool, tuple[Speed, Ratios]] = {}
        self._before_due_s = float("-inf")

    async def read(self, workers: Sequence[WorkerStatus], living: Collection[str], now: int) -> dict[str, EngineDemand]:
        """Engine -> what waits for it; `living`: ids of those workers that hold what they tell of.

        Raises:
            StoreUnavailable: the rows cannot be read now.

        """
        queue = await read_queue(self._database, _QUEUE_MAX)
        if time.monotonic() >= self._before_due_s or len(self._paces) < len(self._engines):
            self._before = measure_ended(await read_ended(self._database, _ENDED_MAX), self._find_pool)
            self._before_due_s = time.monotonic() + _ENDED_KEPT_S
        self._learn(workers)
        left = {batch: Need(*tokens) for worker in workers for batch, tokens in worker.report.work_left.items()}
        holders = Counter(batch for worker in workers if worker.id in living for batch in worker.report.batches)
        slices_left = await self._count_slices(queue)
        found = {engine: EngineDemand() for engine in self._engines}
        for batch in queue:
            turns = slices_left.get(batch.id, 1)
            share = turns / batch.slices if batch.slices else 1.0
            needs = self._find_needs(batch, left.get(batch.id), share)
            left_s = (batch.deadline_at_ms - now) / 1000
            for engine, work_s in self._share(needs).items():
                found[engine].demands.append(Demand(work_s, left_s))
            for engine in {engine for pool in needs for engine in pool}:
                found[engine].free_turns += max(0, turns - holders[batch.id])
        return found

    async def _count_slices(self, queue: Sequence[QueuedBatch]) -> Mapping[str, int]:
        """Batch that was cut -> how many of its slices are left: so many turns there are on it."""
        cut = [batch.id for batch in queue if batch.slices]
        return dict.fromkeys(cut, 0) | await count_slices_left(self._database, cut) if cut else {}

    def _learn(self, workers: Sequence[WorkerStatus]) -> None:
        """The mean of what replicas of one engine tell."""
        told: dict[str, list[_Pace]] = {}
        for worker in workers:
            for engine, pace in worker.report.token_s.items():
                told.setdefault(engine, []).append(pace)
        for engine, paces in told.items():
            prompt_s, completion_s = (sum(each) / len(paces) for each in zip(*paces, strict=True))
            self._paces[engine] = (prompt_s, completion_s)

    def _find_needs(self, batch: QueuedBatch, told: Need | None, share: float) -> Mapping[Pool, Need]:
        """Who serves a batch -> what is left for them. `share`: which part of its slices is left, if it was cut."""
        needs: dict[Pool, Need] = {}
        for model, guessed in guess_needs(batch).items():
            pool = self._find_pool(model or batch.model_id, batch.endpoint)
            if pool is None:
                # Somebody has to take it, to refuse its lines.
                pool, guessed = frozenset(self._engines), Need()  # noqa: PLW2901 - there is nothing to compute
            ratios = self._before[pool][1] if pool in self._before else Ratios()
            needs[pool] = needs.get(pool, Need()).plus(guessed.scaled(share * ratios.prompt, share * ratios.completion))
        if told is None:
            return needs
        # A worker knows better how much is left; between engines it is as it was.
        guessed_all = sum(sum(need) for need in needs.values())
        return {
            pool: told.scaled(*2 * (sum(need) / guessed_all if guessed_all else 1 / len(needs),))
            for pool, need in needs.items()
        }

    def _share(self, needs: Mapping[Pool, Need]) -> dict[str, float | None]:
        """Engine -> the seconds that one replica of it takes for its part; None: nothing tells how fast it is."""
        shares: dict[str, float | None] = {}
        for pool, need in needs.items():
            for engine in pool:
                seconds = self._estimate_s(engine, pool, need)
                before = shares.get(engine, 0.0)
                shares[engine] = None if seconds is None or before is None else before + seconds / len(pool)
        return shares

    def _estimate_s(self, engine: str, pool: Pool, need: Need) -> float | None:
        if not any(need):
            return 0.0
        if engine in self._paces:
            prompt_s, completion_s = self._paces[engine]
            return need.prompt_tokens * prompt_s + need.completion_tokens * completion_s
        # Of batches that ended it is only known how fast all replicas together were, which is better than nothing.
        before = self._before.get(pool)
        return before[0].estimate_s(need) if before is not None and before[0].is_known else None

    def _find_pool(self, model: str | None, endpoint: str) -> Pool | None:
        route = self._fleet.resolve(model, endpoint) if model else None
        return None if route is None else frozenset(replica.name for replica in route.replicas)
