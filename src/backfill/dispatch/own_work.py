"""What a process with engines knows, for a forecast: its own engines, its own turns, and the rows of slices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from backfill.dispatch.pace import Pace
from backfill.dispatch.weighing import Pool
from backfill.dispatch.work_left import Ratios, WorkLeft
from backfill.engines import Fleet
from backfill.plan import Estimating, Need
from backfill.store import QueuedBatch, count_slices_left
from backfill.store.database import Database
from backfill.turns import Turn

__all__ = ["OwnWork", "Source"]


class Source(Protocol):
    """What a dispatcher knows."""

    @property
    def paces(self) -> Mapping[str, Pace]:
        """Replica -> how fast it is."""

    @property
    def work_left(self) -> Sequence[tuple[Turn, WorkLeft]]:
        """What is left of each turn that is worked on."""


class OwnWork:
    """See `KnownWork`."""

    def __init__(self, database: Database, source: Source, fleet: Fleet) -> None:
        self._database = database
        self._source = source
        self._fleet = fleet
        self._usual: dict[Pool, Ratios] = {}
        self._shares: dict[str, float] = {}
        """Batch that was cut -> which part of its slices is left, of those that others are at work on too."""

    async def look(self, queue: Sequence[QueuedBatch]) -> None:
        """Count the slices that are left."""
        cut = {batch.id: batch.slices for batch in queue if batch.slices}
        left = await count_slices_left(self._database, cut) if cut else {}
        self._shares = {batch_id: left.get(batch_id, 0) / slices for batch_id, slices in cut.items()}

    def find_pool(self, model: str | None, endpoint: str) -> Pool | None:
        """See `KnownWork`."""
        route = self._fleet.resolve(model, endpoint) if model else None
        return None if route is None else frozenset(replica.name for replica in route.replicas)

    def list_speeds(self) -> dict[str, Estimating]:
        """See `KnownWork`."""
        return {name: pace.speed for name, pace in self._source.paces.items() if pace.speed.is_known}

    def find_ratios(self, pool: Pool) -> Ratios | None:
        """See `KnownWork`."""
        return self._usual.get(pool)

    def find_left(
        self, batch: QueuedBatch, guessed: Mapping[Pool, Need], find_usual: Callable[[Pool], Ratios]
    ) -> Mapping[Pool, Need]:
        """Of a batch at work here, its own lines tell."""
        works = (work for turn, work in self._source.work_left if turn.batch.id == batch.id and not turn.slice_number)
        work = next(works, None)
        if work is not None:
            for pool in work.pools:
                self._usual[pool] = work.find_ratios(pool, find_usual(pool))
            return work.sum_up({pool: find_usual(pool) for pool in work.pools})
        share = self._shares.get(batch.id, 1.0)
        left: dict[Pool, Need] = {}
        for pool, need in guessed.items():
            usual = find_usual(pool)
            left[pool] = need.scaled(share * usual.prompt, share * usual.completion)
        return left

    def find_least_s(self, batch: QueuedBatch, needs: Mapping[Pool, Need], speeds: Mapping[str, Estimating]) -> float:  # noqa: ARG002
        """All engines here may work on it at once."""
        return 0.0
