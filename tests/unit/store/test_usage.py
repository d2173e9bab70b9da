"""What batches used is read by the index of their ends, and of one owner no more than that either."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from backfill.batch import HOUR_MS, Batch, State, Usage, UsageRow
from backfill.store import BatchUsage, Metadata, UsageRecords
from backfill.store.usage import _ENDED, _ENDED_OF_OWNER


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


async def test_only_batches_that_may_have_used_something_then_are_read(tmp_path: Path) -> None:
    metadata = await Metadata.open(tmp_path / "m.db")
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
async def test_the_index_finds_them(tmp_path: Path, query: Any) -> None:
    path = tmp_path / "m.db"
    await (await Metadata.open(path)).close()
    statement = str(query.compile(dialect=sqlite.dialect()))
    with closing(sqlite3.connect(path)) as connection:
        steps = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * statement.count("?"))
        (step,) = [step[3] for step in steps]
    assert "USING INDEX batches_by_end" in step
