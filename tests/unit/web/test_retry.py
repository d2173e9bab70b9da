"""Retry only what failed: exactly those lines, byte for byte, and once however often it is asked for."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backfill.app import Rooms
from backfill.batch import Batch, Dialect, State
from bench.engine_process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.rooms import OWNER, create_batch, open_house, read_results, wait_for_batch
from tests.unit.web.serving import serve

LINES = 30
REFUSED, EXHAUSTED = 4, 11


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(faults={marker_of(REFUSED): ["400"], marker_of(EXHAUSTED): ["500"] * 5}) as running:
        yield running


def client_of(rooms: Rooms) -> httpx.AsyncClient:
    app, _ = serve(rooms)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://backfill.test")


async def retry(rooms: Rooms, batch: Batch, root: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
    async with client_of(rooms) as client:
        answer = await client.post(f"{root}/v1/batches/{batch.id}/retry", headers=headers)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found


def read_input(rooms: Rooms, batch: Batch) -> bytes:
    return rooms.blobs.read(f"files/{batch.input_file_id}/content")


def make_lines() -> list[bytes]:
    """Spelled in many ways: a mark at the start, other line ends, blank lines, another order, no last end."""
    lines = [request_line(number) for number in range(LINES)]
    lines[REFUSED] = b'  {"body": %b, "extra": [1, 2], "custom_id": "gr\xc3\xb6\xc3\x9fe"}  \r' % (
        json.dumps(json.loads(lines[REFUSED])["body"]).encode()
    )
    lines[0] = b"\xef\xbb\xbf" + lines[0] + b"\r"
    lines[7] += b"\n\n  \r"
    return lines


async def test_exactly_the_failed_lines_run_again_and_complete(engine: NullEngine, tmp_path: Path) -> None:
    lines = make_lines()
    async with open_house(tmp_path, engine.url) as rooms:
        created = await create_batch(rooms, b"\n".join(lines), model_id="m", metadata={"a": "1"}, priority=3)
        ended = await wait_for_batch(rooms, created.id)
        assert (ended.counts.answered, ended.counts.failed) == (LINES - 2, 2)
        status, answer = await retry(rooms, ended)
        assert status == 201
        made = await wait_for_batch(rooms, answer["job"]["id"])
        assert made.state is State.COMPLETED
        assert (made.counts.total, made.counts.answered, made.error_file_id) == (2, 2, None)
        assert read_input(rooms, made) == lines[REFUSED] + b"\n" + lines[EXHAUSTED] + b"\n"
        custom_ids = [json.loads(line)["custom_id"] for line in read_results(rooms, made.output_file_id)]
        assert custom_ids == ["größe", f"request-{EXHAUSTED}"]
        for name in ("owner", "endpoint", "model_id", "dialect", "completion_window", "priority"):
            assert getattr(made, name) == getattr(ended, name)
        assert made.deadline_at_ms - made.created_at_ms == ended.deadline_at_ms - ended.created_at_ms
        assert made.metadata == {"a": "1", "retry_of": ended.id}
        purposes = [(await rooms.metadata.get_file(each.input_file_id)).purpose for each in (ended, made)]
        assert purposes == ["batch-api"] * 2
        status, answer = await retry(rooms, made)
        assert (status, answer["error"]["code"]) == (400, "nothing_to_retry")


async def test_what_a_cancel_left_undone_has_failed_too(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(10, LINES)})
    lines = [request_line(number) for number in range(LINES)]
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, b"\n".join(lines))
        status, answer = await retry(rooms, created)
        assert (status, answer["error"]["code"]) == (400, "batch_not_ended")
        await engine.wait_for_async(lambda stats: stats["answered"] == 10)
        await rooms.turns.cancel(created.id, OWNER)
        ended = await wait_for_batch(rooms, created.id)
        engine.behave(faults={})
        _, answer = await retry(rooms, ended)
        made = await wait_for_batch(rooms, answer["job"]["id"])
        assert made.counts.answered == ended.counts.failed
        assert read_input(rooms, made) == b"".join(line + b"\n" for line in lines[ended.counts.answered :])


async def test_the_dialect_stays(engine: NullEngine, tmp_path: Path) -> None:
    line = b'{"method":"POST","url":"/v1/chat/completions",' + request_line(REFUSED)[1:]
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, line, dialect=Dialect.OPENAI)).id)
        status, answer = await retry(rooms, ended)
        assert (status, answer["object"], answer["metadata"]) == (200, "batch", {"retry_of": ended.id})
        made = await wait_for_batch(rooms, answer["id"])
        assert (made.dialect, made.counts.answered) == (Dialect.OPENAI, 1)


@pytest.mark.parametrize("headers", [{"idempotency-key": "k"}, {"x-stainless-retry-count": "1"}], ids=str)
async def test_asked_for_many_times_at_once_it_makes_one_batch(
    engine: NullEngine, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(REFUSED))).id)
        answers = await asyncio.gather(*(retry(rooms, ended, **headers) for _ in range(10)))
        assert len({answer["job"]["id"] for _, answer in answers}) == 1
        assert len(await rooms.metadata.list_batches(OWNER, limit=99)) == 2
        inputs = [file for file in await rooms.metadata.list_files(OWNER, limit=99) if file.survey]
        assert len(inputs) == 2


async def test_what_cannot_be_retried_is_said(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        rejected = await wait_for_batch(rooms, (await create_batch(rooms, b"[]")).id)
        status, answer = await retry(rooms, rejected)
        assert (status, answer["error"]["code"]) == (400, "nothing_to_retry")
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(REFUSED))).id)
        await rooms.intake.remove(ended.input_file_id)
        status, answer = await retry(rooms, ended)
        assert (status, answer["error"]["code"]) == (400, "input_file_deleted")
        async with client_of(rooms) as client:
            assert (await client.post("/v1/batches/none/retry")).status_code == 404
