"""What a process without engines knows, for a forecast: what all workers told last, and the rows of slices."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from backfill.dispatch.weighing import Pool, find_team
from backfill.dispatch.work_left import Ratios
from backfill.plan import Estimating, Fastest, Need, TokenTime, count_slices
from backfill.status import WorkerStatus
from backfill.store import QueuedBatch, count_slices_left
from backfill.store.database import Database

__all__ = ["CrewWork", "LivingWorkers"]

_ANY = "*"


class LivingWorkers(Protocol):
    """Who works."""

    @property
    def living(self) -> Sequence[WorkerStatus]:
        """The workers that must be taken to run, as they told last of themselves."""


class CrewWork:
    """See `KnownWork`. A replica is named with its worker, since several have engines of one name."""

    def __init__(
        self, crew: LivingWorkers, database: Database, lines_per_turn: int, resolve_alias: Callable[[str], str] = str
    ) -> None:
        """`lines_per_turn`: of more lines a batch is cut. `resolve_alias` gives the id that a name stands for."""
        self._crew = crew
        self._database = database
        self._lines_per_turn = lines_per_turn
        self._resolve_alias = resolve_alias
        self._workers: Sequence[WorkerStatus] = ()
        self._told: dict[str, Need] = {}
        """Batch -> what workers say that their turns on it still need."""
        self._shares: dict[str, float] = {}
        """Batch -> which part of it nobody has begun; all of it, where nothing stands here."""
        self._slices_left: Mapping[str, int] = {}
        """Batch that was cut -> how many of its slices are not drained."""
        self._holders: Mapping[str, Sequence[WorkerStatus]] = {}
        """Batch -> who works on it."""
        self._pools: dict[tuple[str, str], Pool | None] = {}
        """Model and endpoint -> who serves it."""
        self._fastest: dict[Pool, Fastest | None] = {}
        """Who serves lines -> any one of the workers."""

    async def look(self, queue: Sequence[QueuedBatch]) -> None:
        """Take in what workers told, and count the slices that are left."""
        cut = {batch.id: batch.slices for batch in queue if batch.slices}
        left = self._slices_left = await count_slices_left(self._database, cut) if cut else {}
        self._workers = self._crew.living
        self._pools, self._fastest = {}, {}
        opened: Counter[str] = Counter()
        holders: defaultdict[str, list[WorkerStatus]] = defaultdict(list)
        self._told = {}
        for worker in self._workers:
            for batch_id in worker.report.batches:
                holders[batch_id].append(worker)
            for batch_id, tokens in worker.report.work_left.items():
                self._note(batch_id, Need(*tokens))
            for batch_id, (slices, prompt_tokens, completion_tokens) in worker.report.slice_work.items():
                opened[batch_id] += slices
                self._note(batch_id, Need(prompt_tokens, completion_tokens))
        self._holders = dict(holders)
        self._shares = dict.fromkeys(self._told, 0.0)
        # What was told is some seconds old: slices may have been drained since.
        self._shares |= {name: max(0, left.get(name, 0) - opened[name]) / slices for name, slices in cut.items()}

    def find_pool(self, model: str | None, endpoint: str) -> Pool | None:
        """The replicas of each worker that it would send such lines to."""
        if not model:
            return None
        if (model, endpoint) not in self._pools:
            names = (model, self._resolve_alias(model), _ANY)
            serving = {_name(worker, one) for worker in self._workers for one in _find_serving(worker, names, endpoint)}
            self._pools[model, endpoint] = frozenset(serving) or None
        return self._pools[model, endpoint]

    def list_speeds(self) -> dict[str, Estimating]:
        """As told; one that tells nothing yet is taken to be as fast as its like are."""
        usual: dict[str, list[tuple[float, float]]] = {}
        for worker in self._workers:
            for replica, token_s in worker.report.token_s.items():
                usual.setdefault(replica, []).append(token_s)
        speeds: dict[str, Estimating] = {}
        for worker in self._workers:
            for replica in worker.report.offers:
                told = worker.report.token_s.get(replica)
                like_it = usual.get(replica) if told is None else [told]
                if like_it:
                    speeds[_name(worker, replica)] = TokenTime(*_average(like_it))
        return speeds

    def find_ratios(self, pool: Pool) -> Ratios | None:
        """The mean of what its replicas tell."""
        told = [
            ratios
            for worker in self._workers
            for replica, ratios in worker.report.ratios.items()
            if _name(worker, replica) in pool
        ]
        return Ratios(*_average(told)) if told else None

    def find_left(
        self, batch: QueuedBatch, guessed: Mapping[Pool, Need], find_usual: Callable[[Pool], Ratios]
    ) -> Mapping[Pool, Need]:
        """What workers tell of their turns, and of the rest what was guessed."""
        share, told = self._shares.get(batch.id, 1.0), self._told.get(batch.id, Need())
        guessed_all = sum(sum(need) for need in guessed.values())
        left: dict[Pool, Need] = {}
        for pool, need in guessed.items():
            usual = find_usual(pool)
            # Between engines what was told is taken to lie as what was guessed.
            part = sum(need) / guessed_all if guessed_all else 1 / len(guessed)
            left[pool] = need.scaled(share * usual.prompt, share * usual.completion).plus(told.scaled(part, part))
        return left

    def find_least_s(self, batch: QueuedBatch, needs: Mapping[Pool, Need], speeds: Mapping[str, Estimating]) -> float:
        """A batch that is not cut is worked on by one worker: by who has it, or by the fastest one. So is a slice."""
        turns = max(1, self._count_turns(batch))
        holders = [] if turns > 1 else self._holders.get(batch.id, [])
        each_s = [0.0]
        for pool, need in needs.items():
            fastest = self._find_fastest(pool, holders, speeds)
            each_s += [] if fastest is None else [fastest.estimate_s(need.scaled(1 / turns, 1 / turns))]
        return max(each_s)

    def _find_fastest(
        self, pool: Pool, holders: Sequence[WorkerStatus], speeds: Mapping[str, Estimating]
    ) -> Fastest | None:
        """Of the holders that one that is the fastest, or of all workers; None: nothing is known of them."""
        if not holders and pool in self._fastest:
            return self._fastest[pool]
        found = [
            find_team({_name(worker, replica) for replica in worker.report.offers} & pool, speeds)
            for worker in holders or self._workers
        ]
        known = [team for team in found if team is not None]
        fastest = Fastest(known) if known else None
        if not holders:
            self._fastest[pool] = fastest
        return fastest

    def _count_turns(self, batch: QueuedBatch) -> int:
        """Into how many slices the rest of a batch is cut; 0: into none."""
        if batch.slices:
            return self._slices_left.get(batch.id, 0)
        # Of one that is not admitted yet only this tells.
        return count_slices(
            max(batch.counts.total, sum(each.lines for each in batch.reserved.values())), self._lines_per_turn
        )

    def _note(self, batch_id: str, need: Need) -> None:
        self._told[batch_id] = self._told.get(batch_id, Need()).plus(need)


def _find_serving(worker: WorkerStatus, names: Iterable[str], endpoint: str) -> tuple[str, ...]:
    """As among engines of one process: those that list the name, else its id, else those that take any."""
    found = (worker.report.find_replicas(name, endpoint) for name in names)
    return next((replicas for replicas in found if replicas), ())


def _name(worker: WorkerStatus, replica: str) -> str:
    return f"{replica}@{worker.id}"


def _average(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, second = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
    return first, second
