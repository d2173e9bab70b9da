"""Results before the end: each line once, exactly as it will stand in the files, in an order that never changes."""

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from backfill.accounts import KeyDraft
from backfill.batch import Batch, Dialect, State
from backfill.config import RetentionConfig
from backfill.intake import Retention
from backfill.store import journal_prefix
from backfill.web.api import results
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, read_results, wait_for_batch
from tests.unit.web.asgi import Stream, call, split
from tests.unit.web.serving import serve

LINES = 60
PROMPTLY_S = 5


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@asynccontextmanager
async def follow(app: FastAPI, batch: Batch, query: str = "") -> AsyncIterator[Stream]:
    async with asyncio.timeout(60), Stream(app, f"/v1/batches/{batch.id}/results{query}") as stream:
        assert stream.status == 200
        yield stream


async def read_all(app: FastAPI, batch: Batch, query: str = "") -> list[bytes]:
    async with follow(app, batch, query) as stream:
        lines = await stream.read_lines()
        assert stream.is_complete
        return lines


async def ask(app: FastAPI, path: str) -> tuple[int, dict[str, Any]]:
    status, body = await call(app, "GET", path, split(b"", size=1))
    return status, json.loads(body)["error"]


def hold_from(engine: NullEngine, first: int) -> None:
    """The engine answers nothing from this line on until it is released."""
    engine.behave(faults={marker_of(number): ["hang"] for number in range(first, LINES)})


async def test_finished_lines_come_while_the_rest_is_held(engine: NullEngine, tmp_path: Path) -> None:
    hold_from(engine, LINES // 2)
    settings = {"dispatch.request_timeout_s": 1.0, "engines": {"null": {"url": engine.url, "concurrency": LINES}}}
    async with open_house(tmp_path, engine.url, **settings) as rooms:
        app, _ = serve(rooms)
        created = await create_batch(rooms, request_lines(LINES))
        async with follow(app, created) as stream:
            early = await stream.read_lines(LINES // 2)
            assert {json.loads(line)["custom_id"] for line in early} == {f"request-{n}" for n in range(LINES // 2)}
            batch = await rooms.metadata.get_batch(created.id)
            assert (batch.state, stream.is_complete) == (State.IN_PROGRESS, False)
            # What hung is tried again, and answered.
            late = await stream.read_lines()
            assert stream.is_complete
        batch = await wait_for_batch(rooms, created.id)
        assert sorted(early + late) == sorted(read_results(rooms, batch.output_file_id))
        assert await read_all(app, batch) == early + late


async def test_results_are_cut_once_the_key_is_revoked(engine: NullEngine, tmp_path: Path) -> None:
    hold_from(engine, LINES // 2)
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        created = await create_batch(rooms, request_lines(LINES))
        key, secret = await rooms.keys.create(KeyDraft(name="ada", owner=OWNER))
        async with (
            asyncio.timeout(60),
            Stream(app, f"/v1/batches/{created.id}/results", headers={"authorization": f"Bearer {secret}"}) as stream,
        ):
            assert len(await stream.read_lines(3)) == 3
            await rooms.keys.revoke(key.id)
            await stream.read_lines()
            # Not as if that were all.
            assert not stream.is_complete


async def test_results_are_cut_once_the_first_key_is_made(engine: NullEngine, tmp_path: Path) -> None:
    hold_from(engine, LINES // 2)
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        async with follow(app, await create_batch(rooms, request_lines(LINES))) as stream:
            await stream.read_lines(3)
            await rooms.keys.create(KeyDraft(name="ada"))
            await stream.read_lines()
            assert not stream.is_complete


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_lines_are_those_of_both_files_and_keep_their_order(
    engine: NullEngine, tmp_path: Path, dialect: Dialect
) -> None:
    engine.behave(faults={marker_of(3): ["400"], marker_of(7): ["500"] * 9})
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        if dialect is Dialect.OPENAI:
            target = b'{"method":"POST","url":"/v1/chat/completions",'
            data = request_lines(LINES).replace(b"{", target, 1).replace(b"\n{", b"\n" + target)
        else:
            data = request_lines(LINES)
        batch = await wait_for_batch(rooms, (await create_batch(rooms, data, dialect=dialect)).id)
        assert (batch.counts.answered, batch.counts.failed) == (LINES - 2, 2)
        files = read_results(rooms, batch.output_file_id) + read_results(rooms, batch.error_file_id)
        whole = await read_all(app, batch)
        assert sorted(whole) == sorted(files)
        assert await read_all(app, batch, "?follow=false") == whole
        for after in (1, 17, LINES - 1, LINES, LINES + 5):
            assert await read_all(app, batch, f"?after={after}") == whole[after:]


async def test_without_follow_a_running_batch_gives_what_there_is(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        batch = await create_batch(rooms, request_lines(LINES))
        assert await read_all(app, batch, "?follow=false") == []
        engine.behave(hold=False)
        await wait_for_batch(rooms, batch.id)


async def test_what_a_cancel_left_undone_comes_last(engine: NullEngine, tmp_path: Path) -> None:
    hold_from(engine, 20)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        app, _ = serve(rooms)
        created = await create_batch(rooms, request_lines(LINES))
        async with follow(app, created) as stream:
            done = await stream.read_lines(20)
            await rooms.turns.cancel(created.id, created.owner)
            rest = await stream.read_lines()
            assert stream.is_complete
        batch = await wait_for_batch(rooms, created.id)
        assert sorted(done) == sorted(read_results(rooms, batch.output_file_id))
        assert rest == read_results(rooms, batch.error_file_id)
        assert json.loads(rest[0])["error"]["code"] == "batch_cancelled"
        assert await read_all(app, batch, "?after=25") == rest[5:]


async def test_a_client_that_goes_away_and_a_server_that_stops_end_the_stream(
    engine: NullEngine, tmp_path: Path
) -> None:
    engine.behave(hold=True)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        app, services = serve(rooms)
        batch = await create_batch(rooms, request_lines(LINES))
        async with asyncio.timeout(PROMPTLY_S), follow(app, batch) as stream:
            stream.disconnect()
            await stream.task
            assert not stream.is_complete
        async with asyncio.timeout(PROMPTLY_S), follow(app, batch) as stream:
            services.stopping.set()
            assert await stream.read_line() == b""
            # Cut and not ended: nobody shall take it for the whole.
            assert not stream.is_complete


def read_few(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Streams have three lines, one at a time, and no more before the event is set: later segments are not read yet."""
    monkeypatch.setattr(results, "_PIECE_BYTES", 1)
    going_on, reads = threading.Event(), itertools.count(1)
    read_finished = results._ResultLines.read_finished

    def read(lines: results._ResultLines) -> bytes:
        if next(reads) > 3:
            assert going_on.wait(PROMPTLY_S)
        return read_finished(lines)

    monkeypatch.setattr(results._ResultLines, "read_finished", read)
    return going_on


async def test_a_journal_that_is_over_goes_when_nobody_reads_it_any_more(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_from(engine, LINES // 2)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        app, _ = serve(rooms)
        created = await create_batch(rooms, request_lines(LINES))
        async with follow(app, created) as stream:
            await stream.read_lines(LINES // 2)
    engine.behave(faults={})
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        batch = await wait_for_batch(rooms, created.id)
        segments = rooms.blobs.list(journal_prefix(batch.id))
        assert len(segments) > 1
        whole = await read_all(app, batch)
        retention = Retention(rooms.intake, rooms.metadata, ages=RetentionConfig(journals_days=1e-9))
        going_on = read_few(monkeypatch)
        async with follow(app, batch) as stream:
            first = await stream.read_lines(3)
            assert await retention.collect(is_trial=False) == []
            assert await retention.remove_aged() == 0
            assert rooms.blobs.list(journal_prefix(batch.id)) == segments
            going_on.set()
            assert first + await stream.read_lines() == whole
            assert stream.is_complete
        assert [each.name for each in await retention.collect(is_trial=False)] == [batch.id]
        assert rooms.blobs.list(journal_prefix(batch.id)) == []
        status, error = await ask(app, f"/v1/batches/{batch.id}/results")
        assert (status, error["code"]) == (400, "journal_removed")


async def test_a_rejected_batch_has_no_lines(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(2) + b"[]\n")).id)
        assert batch.state is State.FAILED
        assert await read_all(app, batch) == []


async def test_what_cannot_be_streamed_is_said(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        app, _ = serve(rooms)
        status, error = await ask(app, "/v1/batches/none/results")
        assert (status, error["code"]) == (404, "not_found")
        batch = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(2))).id)
        for after in ("-1", "x", str(2**31)):
            status, error = await ask(app, f"/v1/batches/{batch.id}/results?after={after}")
            assert (status, error["param"]) == (400, "after")
        rooms.blobs.delete_folder(f"files/{batch.input_file_id}")
        status, error = await ask(app, f"/v1/batches/{batch.id}/results")
        assert (status, error["code"]) == (400, "input_file_deleted")
