"""A table cut into several batches, and what is left of it after a crash."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from backfill.app import open_rooms
from backfill.batch import Batch, Counts
from backfill.local import ResultsFeed, Stop, TableJob, TableRun, configure_run
from backfill.tables import AnswerReader, RequestBuilder, RequestPlan, open_table
from bench.null.process import NullEngine

ROWS = 25
# Row 7 holds no text, and the fourth batch of four rows has no row that does.
BINARY = {7, 12, 13, 14, 15}


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as engine:
        yield engine


def make_job(folder: Path) -> TableJob:
    values = [b"\xff" if n in BINARY else str(n).encode() for n in range(ROWS)]
    parquet.write_table(pa.table({"n": pa.array(values)}), folder / "t.parquet", row_group_size=7)
    builder = RequestBuilder(RequestPlan(prompt="marker-{n}"))
    return TableJob(open_table(str(folder / "t.parquet")), builder, AnswerReader(), "m", chunk_rows=4)


async def run(job: TableJob, state: Path, engine: NullEngine, stop_after: int | None = None) -> list[list[Any]] | None:
    """The values of all rows; None if it was stopped, which it is once so many rows are done."""
    config = configure_run(None, state, model="m", engine=engine.url, api_key=None)
    async with open_rooms(config) as rooms:
        stop = Stop()

        def show(counts: Counts, _: str | None) -> None:
            assert counts.total == ROWS
            if stop_after is not None and counts.done >= stop_after:
                stop.take()

        job.begin(state)
        table = TableRun(rooms, job, show, stop)
        if not await table.work():
            return None
        # Two batches at a time, and one of each four rows but for those that have none to send.
        assert sorted(table.batches) == [0, 1, 2, 4, 5, 6]
        return [values for block in table.read_answers() for values in block]


def assert_right(values: list[list[Any]] | None) -> None:
    assert values is not None
    assert len(values) == ROWS
    for row, (answer, error) in enumerate(values):
        if row in BINARY:
            assert answer is None
            assert error is not None
        else:
            assert answer.startswith(f"marker-{row} ")
            assert error is None


def test_chunks_come_together_in_order(tmp_path: Path, engine: NullEngine) -> None:
    assert_right(asyncio.run(run(make_job(tmp_path), tmp_path / "state", engine)))
    assert Counter(engine.markers()) == {str(n): 1 for n in range(ROWS) if n not in BINARY}


def test_a_stopped_run_makes_the_batches_that_are_missing(tmp_path: Path, engine: NullEngine) -> None:
    job = make_job(tmp_path)
    assert asyncio.run(run(job, tmp_path / "state", engine, stop_after=3)) is None
    assert_right(asyncio.run(run(job, tmp_path / "state", engine)))
    # What had its outcome is not asked again; what was in flight may be.
    assert set(engine.markers()) == {str(n) for n in range(ROWS) if n not in BINARY}
    assert_right(asyncio.run(run(job, tmp_path / "state", engine)))


def test_a_job_cut_off_before_any_batch_begins_again(tmp_path: Path, engine: NullEngine) -> None:
    job = make_job(tmp_path)
    (tmp_path / "state").mkdir()
    job.begin(tmp_path / "state")
    assert_right(asyncio.run(run(job, tmp_path / "state", engine)))


def test_rows_whose_requests_no_server_takes_are_errors_and_the_others_run(tmp_path: Path, engine: NullEngine) -> None:
    # No input is empty for embeddings: the first four rows, which are a batch, make none.
    texts = ["", None, "", "", "marker-4", "", "marker-6"]
    parquet.write_table(pa.table({"n": texts}), tmp_path / "t.parquet")
    plan = RequestPlan(prompt="{n}", endpoint="/v1/embeddings")
    reader = AnswerReader(endpoint=plan.endpoint)
    job = TableJob(open_table(str(tmp_path / "t.parquet")), RequestBuilder(plan), reader, "m", chunk_rows=4)
    config = configure_run(None, tmp_path / "state", model="m", engine=engine.url, api_key=None)
    given: dict[int, list[Any]] = {}

    async def run_and_feed() -> list[list[Any]]:
        async with open_rooms(config) as rooms:
            table = TableRun(rooms, job, lambda *_: None, Stop())
            feed = ResultsFeed(rooms.blobs, job, table, given.__setitem__)
            assert await table.work(feed.read_on)
            feed.close()
            return [values for block in table.read_answers() for values in block]

    values = asyncio.run(run_and_feed())
    assert [given[row] for row in range(len(texts))] == values
    assert [error is None for _, error in values] == [bool(text) for text in texts]
    assert all("body.input" in error for (_, error), text in zip(values, texts, strict=True) if not text)
    assert sorted(engine.markers()) == ["4", "6"]


def test_a_batch_may_begin_while_rows_are_counted(
    tmp_path: Path, engine: NullEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    config = configure_run(None, tmp_path / "state", model="m", engine=engine.url, api_key=None)

    async def run_and_count() -> Counts:
        async with open_rooms(config) as rooms:
            table = TableRun(rooms, job, lambda *_: None, Stop())
            assert await table.work()
            count = rooms.progress.count
            begun = table.batches.pop(6)

            async def begin_one(batch: Batch) -> Counts:
                table.batches[6] = begun
                return await count(batch)

            monkeypatch.setattr(rooms.progress, "count", begin_one)
            await table.count()
            return await table.count()

    counts = asyncio.run(run_and_count())
    assert (counts.total, counts.done, counts.answered) == (ROWS, ROWS, ROWS - len(BINARY))
