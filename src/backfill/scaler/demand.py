"""What waits for each engine, as replica-seconds: from the rows of batches, and from what workers tell of theirs.

A line waits for those engines alone that serve its model. What only workers elsewhere serve is none of the scaler's.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from backfill.dispatch.weighing import Pool, measure_ended
from backfill.dispatch.work_left import Ratios
from backfill.engines import Fleet
from backfill.plan import Demand, Need, Speed
from backfill.scaler.finished_parts import FinishedParts
from backfill.status import WorkerReport, WorkerStatus
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


class _Part(NamedTuple):
    """What is left of a batch for those who serve some of its models."""

    need: Need
    turns: int
    """Those that have lines for them."""


class _Told(NamedTuple):
    """What a worker tells of a batch that it works on."""

    report: WorkerReport
    left: Need
    """For the lines that it serves."""


class DemandReader:
    """Reads anew at each call; how fast engines are it remembers while none runs, and what is done of batches."""

    def __init__(self, database: Database, fleet: Fleet, resolve_alias: Callable[[str], str] = str) -> None:
        """`fleet`: the engines that are counted; none of them is started.

        `resolve_alias` gives the id that a model's name stands for.
        """
        self._database = database
        self._fleet = fleet
        self._resolve_alias = resolve_alias
        self._engines = [replica.name for replica in fleet.replicas]
        self._paces: dict[str, _Pace] = {}
        self._before: dict[Pool, tuple[Speed, Ratios]] = {}
        self._before_due_s = float("-inf")
        self._finished = FinishedParts(database, self._serves)

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
        # A scaler serves nothing itself, nor does who answers HTTP alone. But what an earlier scaler told of may come
        # back, as workers see it.
        serving = [worker for worker in workers if worker.role != "api"]
        others = [worker for worker in serving if worker.role != "scale" or worker.id not in living]
        told = {
            batch: _Told(worker.report, Need(*left))
            for worker in workers
            for batch, left in worker.report.work_left.items()
        }
        holders = Counter(batch for worker in workers if worker.id in living for batch in worker.report.batches)
        slices_left = await self._count_slices(queue)
        await self._finished.learn({batch.id: batch for batch in queue}, workers)
        found = {engine: EngineDemand() for engine in self._engines}
        for batch in queue:
            turns = slices_left.get(batch.id, 1)
            if not turns:
                continue
            parts = self._find_parts(batch, told.get(batch.id), turns)
            if not parts and not self._is_for_others(batch, turns, others, living):
                # Somebody has to take it, to refuse its lines; there is nothing to compute.
                parts = {frozenset(self._engines[:1]): _Part(Need(), turns)}
            left_s = (batch.deadline_at_ms - now) / 1000
            for engine, work_s in self._share(parts).items():
                found[engine].demands.append(Demand(work_s, left_s))
                with_lines = max(part.turns for pool, part in parts.items() if engine in pool)
                found[engine].free_turns += max(0, with_lines - holders[batch.id])
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

    def _find_parts(self, batch: QueuedBatch, told: _Told | None, turns: int) -> dict[Pool, _Part]:
        """Who serves a batch -> what is left for them of its models, without those that only others serve."""
        guessed = self._finished.list_models(batch)
        known = {} if told is None else self._share_out(batch, guessed, told)
        parts: dict[Pool, _Part] = {}
        for model, guess in guessed.items():
            pool = self._find_pool(model, batch.endpoint)
            left = self._finished.count_turns(batch.id, model, turns)
            if pool is None or not left:
                continue
            ratios = self._before[pool][1] if pool in self._before else Ratios()
            share = left / batch.slices if batch.slices else 1.0
            need = known.get(model, guess.scaled(share * ratios.prompt, share * ratios.completion))
            before = parts.get(pool, _Part(Need(), 0))
            parts[pool] = _Part(before.need.plus(need), max(before.turns, left))
        return parts

    def _share_out(self, batch: QueuedBatch, guessed: Mapping[str, Need], told: _Told) -> dict[str, Need]:
        """A worker knows better how much is left for it; between the models that it serves it is as it was."""
        served = [model for model in guessed if self._serves(told.report, model, batch.endpoint)]
        guessed_all = sum(sum(guessed[model]) for model in served)
        shares = {model: sum(guessed[model]) / guessed_all if guessed_all else 1 / len(served) for model in served}
        return {model: told.left.scaled(share, share) for model, share in shares.items()}

    def _is_for_others(
        self, batch: QueuedBatch, turns: int, workers: Sequence[WorkerStatus], living: Collection[str]
    ) -> bool:
        """Whether its lines wait for a worker that is no replica of ours, or one is there that will refuse them."""
        models = self._finished.list_models(batch)
        left = [model for model in models if self._finished.count_turns(batch.id, model, turns)]
        return any(
            worker.id in living or any(self._serves(worker.report, model, batch.endpoint) for model in left)
            for worker in workers
        )

    def _serves(self, report: WorkerReport, model: str, endpoint: str) -> bool:
        return any(report.serves(name, endpoint) for name in (model, self._resolve_alias(model)))

    def _share(self, parts: Mapping[Pool, _Part]) -> dict[str, float | None]:
        """Engine -> the seconds that one replica of it takes for its part; None: nothing tells how fast it is."""
        shares: dict[str, float | None] = {}
        for pool, part in parts.items():
            for engine in pool:
                seconds = self._estimate_s(engine, pool, part.need)
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
