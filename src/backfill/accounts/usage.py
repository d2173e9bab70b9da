"""What was used between two hours, by whatever one wants to know it by.

A fold of rows, and of journals where batches still run. Nothing is counted on the side: it says the same after a crash.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

from backfill.accounts.spending import Spending
from backfill.batch import HOUR_MS, Batch, Standing, UsageRow
from backfill.store import BatchUsage, UsageRecords

__all__ = ["UsageBook", "UsageFilter"]

_Key = TypeVar("_Key", bound=Hashable)


class UsageFilter(NamedTuple):
    """Which lines are meant; an empty set does not narrow."""

    since_hour: int
    until_hour: int
    """The first hour that is not meant any more."""
    owner: str | None = None
    """None: all owners."""
    owners: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    key_ids: frozenset[str] = frozenset()
    batch_ids: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()

    def takes_batch(self, batch: BatchUsage) -> bool:
        """Whether lines of the batch may be meant."""
        return (
            (not self.owners or batch.owner in self.owners)
            and (not self.key_ids or batch.key_id in self.key_ids)
            and (not self.batch_ids or batch.batch_id in self.batch_ids)
            and (not self.endpoints or batch.endpoint in self.endpoints)
        )

    def takes_row(self, row: UsageRow) -> bool:
        """Whether the lines of a row are meant, if their batch is."""
        return self.since_hour <= row.hour < self.until_hour and (not self.models or row.model in self.models)


class UsageBook:
    """Reads what batches used."""

    def __init__(self, records: UsageRecords, measure: Callable[[Batch], Awaitable[Standing]]) -> None:
        """`measure` folds the journal of a batch that runs."""
        self._records = records
        self._measure = measure

    async def visit(self, wanted: UsageFilter, take: Callable[[BatchUsage, UsageRow], None]) -> None:
        """Hand every row that is meant to `take`, in worker threads, one after the other."""
        async for some in self._read(wanted):
            # A part at a time: requests must not wait for the sums over a year.
            await asyncio.to_thread(_hand_over, some, wanted, take)

    async def sum_up(self, wanted: UsageFilter, key_of: Callable[[BatchUsage, UsageRow], _Key]) -> dict[_Key, Spending]:
        """The sums over all lines that are meant, one for each key; it takes as much memory as there are keys."""
        sums: dict[_Key, Spending] = {}

        def take(batch: BatchUsage, row: UsageRow) -> None:
            key = key_of(batch, row)
            spending = sums.get(key)
            if spending is None:
                spending = sums[key] = Spending()
            spending.add(row, batch.prices)

        await self.visit(wanted, take)
        return sums

    async def name_keys(self, key_ids: Iterable[str | None]) -> dict[str, str]:
        """Id -> name of those of the keys that there are."""
        return await self._records.name_keys({key_id for key_id in key_ids if key_id})

    async def _read(self, wanted: UsageFilter) -> AsyncIterator[list[BatchUsage]]:
        # Those that run first: one that ends meanwhile is found again among those that have ended, and counts there.
        running = {batch.batch_id: batch for batch in [await self._fold(batch) for batch in await self._find(wanted)]}
        since_ms, until_ms = wanted.since_hour * HOUR_MS, wanted.until_hour * HOUR_MS
        async for ended in self._records.read_ended(since_ms, until_ms, wanted.owner):
            for batch in ended:
                running.pop(batch.batch_id, None)
            yield ended
        yield list(running.values())

    async def _find(self, wanted: UsageFilter) -> list[Batch]:
        return await self._records.find_begun(wanted.owner)

    async def _fold(self, batch: Batch) -> BatchUsage:
        rows = (await self._measure(batch)).usage
        return BatchUsage(batch.id, batch.owner, batch.key_id, batch.endpoint, batch.prices, rows)


def _hand_over(some: Iterable[BatchUsage], wanted: UsageFilter, take: Callable[[BatchUsage, UsageRow], None]) -> None:
    for batch in filter(wanted.takes_batch, some):
        for row in filter(wanted.takes_row, batch.rows):
            take(batch, row)
