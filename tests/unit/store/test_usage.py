"""What batches used is read by the index of their ends, and of one owner no more than that either."""

import asyncio
import re
from typing import Any

import pytest

from backfill.batch import HOUR_MS, Batch, State, Usage, UsageRow
from backfill.store import BatchUsage, Metadata, UsageRecords
from backfill.store.usage import _ENDED, _ENDED_OF_OWNER
from tests.support.rows import RowsPlace


async def add_batch(metadata: Metadata, name: str, *, owner: str = "o", hour: int = 1, **members: Any) -> None:
    facts: dict[str, Any] = {
        "id": name,
        "owner": owner,
        "endpoint": "/v1/chat/completions",
        "input_file_id": "f",
        "input_size_bytes": 1,
        "state": State.COMPLETED,
        "created_at_ms": hour * HOUR_MS,
        "deadline_at_ms": 1,
        "ended_at_ms": hour * HOUR_MS + 1,
        "usage": (UsageRow("a", hour, 1, 0, Usage(1)),),
    }
    await metadata.add_batch(Batch(**(facts | members)))


async def read_all(records: UsageRecords, since_hour: int, until_hour: int, owner: str | None = None) -> list[str]:
    found: list[BatchUsage] = []
    async for some in records.read_ended(since_hour * HOUR_MS, until_hour * HOUR_MS, owner):
        found += some
    return [batch.batch_id for batch in found]


async def test_only_batches_that_may_have_used_something_then_are_read(rows: RowsPlace) -> None:
    metadata = await Metadata.open(rows.make_driver())
    records = UsageRecords(metadata.database)
    for hour in range(5):
        await add_batch(metadata, f"batch-{hour}", hour=hour, owner="even" if hour % 2 == 0 else "odd")
    await add_batch(metadata, "long", hour=0, ended_at_ms=9 * HOUR_MS, owner="odd")
    running: dict[str, Any] = {"state": State.IN_PROGRESS, "ended_at_ms": None, "usage": ()}
    await add_batch(metadata, "begun", **running, epoch=1)
    await add_batch(metadata, "waiting", **running)
    assert await read_all(records, 0, 9) == [*(f"batch-{hour}" for hour in range(5)), "long"]
    assert await read_all(records, 2, 4) == ["batch-2", "batch-3", "long"]
    assert await read_all(records, 2, 4, "odd") == ["batch-3", "long"]
    assert [batch.id for batch in await records.find_begun(None)] == ["begun"]
    assert await records.find_begun("odd") == []
    await metadata.close()


@pytest.mark.parametrize("query", [_ENDED, _ENDED_OF_OWNER], ids=["of all", "of one owner"])
async def test_the_index_finds_them(rows: RowsPlace, query: Any) -> None:
    metadata = await Metadata.open(rows.make_driver())
    await asyncio.gather(*(add_batch(metadata, f"batch-{number}", hour=number) for number in range(300)))
    values = {"after_ms": 299 * HOUR_MS, "after_id": "", "until_ms": 1 << 62, "of_owner": "o"}
    steps = [step for step in rows.explain(query, values) if "batches" in step]
    assert len(steps) == 1
    assert re.search("(?i)using (index )?batches_by_end", steps[0])
    await metadata.close()
