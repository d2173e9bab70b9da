"""Batches found by what a person knows of them, and what they come to."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backfill.batch import Batch, Counts, File, FileStatus, State
from backfill.store import BatchFilter, BatchSearch, BatchSums, Metadata, read_ended, read_queue
from tests.support.rows import RowsPlace

FILE = File(
    id="file-a",
    owner="ada",
    filename="Größen_50%.jsonl",
    purpose="batch-api",
    status=FileStatus.SEALED,
    created_at_ms=1,
)


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    opened = await Metadata.open(rows.make_driver())
    await opened.add_file(FILE)
    await add(opened, 1, "ada", State.VALIDATING, counts=Counts(5), metadata={"project": "Sommer"})
    await add(opened, 2, "ada", State.IN_PROGRESS, counts=Counts(7), model_id="meta/llama")
    await add(opened, 3, "ada", State.COMPLETED, counts=Counts(9, 6, 3), model_id="meta/llama", started_at_ms=1)
    await add(opened, 4, "bob", State.FAILED, counts=Counts(9, 0, 9), input_file_id="file-b")
    await add(opened, 5, "bob", State.CANCELLED, counts=Counts(9, 1, 2), started_at_ms=2, closing_at_ms=3)
    yield opened
    await opened.close()


async def add(rows: Metadata, number: int, owner: str, state: State, **members: Any) -> None:
    facts: dict[str, Any] = {
        "id": f"batch-{number}",
        "owner": owner,
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-a",
        "input_size_bytes": 1,
        "state": state,
        "created_at_ms": 1000 + number,
        "deadline_at_ms": 9000 - number,
    }
    await rows.add_batch(Batch(**(facts | members)))


async def find(metadata: Metadata, **wanted: Any) -> str:
    found = await BatchSearch(metadata.database).find(BatchFilter(**wanted), limit=9)
    return "".join(batch.id.removeprefix("batch-") for batch in found)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "54321"),
        ({"owner": "ada"}, "321"),
        ({"states": [State.FAILED, State.CANCELLED]}, "54"),
        ({"model": "meta/llama"}, "32"),
        ({"model": "meta"}, ""),
        ({"until_ms": 1002}, "21"),
        ({"text": "BATCH-4"}, "4"),
        ({"text": "LLaMA"}, "32"),
        ({"text": "sommer"}, "1"),
        ({"text": "50%.JSON"}, "5321"),
        ({"text": "5_%"}, ""),
        ({"text": "file-B"}, "4"),
        ({"text": "llama", "owner": "bob"}, ""),
    ],
)
async def test_what_is_found(metadata: Metadata, wanted: dict[str, Any], found: str) -> None:
    assert await find(metadata, **wanted) == found


async def test_pages_of_what_is_found(metadata: Metadata) -> None:
    search = BatchSearch(metadata.database)
    pages = [await search.find(BatchFilter(), offset=offset, limit=2) for offset in (0, 2, 4, 6)]
    assert [[batch.id[-1] for batch in page] for page in pages] == [["5", "4"], ["3", "2"], ["1"], []]


async def test_what_they_come_to(metadata: Metadata) -> None:
    search = BatchSearch(metadata.database)
    assert await search.sum_up(BatchFilter()) == BatchSums(5, 2, 2, 5)
    assert await search.sum_up(BatchFilter(owner="nobody")) == BatchSums(0, 0, 0, 0)
    assert await search.count_lines(None) == {State.VALIDATING: (1, 5), State.IN_PROGRESS: (1, 7)}
    assert await search.count_by_state("bob") == {State.FAILED: 1, State.CANCELLED: 1}
    assert await search.list_models(None) == ["meta/llama"]
    assert [batch.id for batch in await search.find_running(None, limit=9)] == ["batch-2"]


async def test_what_waits_and_what_was_done_of_late(metadata: Metadata) -> None:
    await add(metadata, 6, "bob", State.COMPLETED, counts=Counts(4, 4, 0), started_at_ms=2, closing_at_ms=3)
    waiting = await read_queue(metadata.database, 9)
    assert [(batch.id, batch.counts.total) for batch in waiting] == [("batch-2", 7), ("batch-1", 5)]
    assert [batch.counts.total for batch in await read_ended(metadata.database, 9)] == [4]
