"""Requests that no engine would take: their own lines of the error file, never sent, and the others run."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, Dialect, State
from backfill.index import UNKNOWN_SHAPE, LineIndex
from backfill.store import index_key
from backfill.turns import BatchRequest
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.rooms import OWNER, create_batch, open_house, read_results, seal, wait_for_batch

BAD = {
    "no-body": (b'{"custom_id":"no-body"}', "missing_body", "body"),
    "params": (b'{"custom_id":"params","params":{"model":"m"}}', "missing_body", "params"),
    "text": (b'{"custom_id":"text","body":"hello"}', "invalid_body", "body"),
    "number": (b'{"custom_id":"number","body":{"model":5,"messages":[{}]}}', "invalid_model", "body.model"),
    "half": (
        b'{"custom_id":"half","body":{"model":"m","messages":[{"content":"\\ud83d"}]}}',
        "invalid_request",
        "body.messages[0].content",
    ),
    "stream": (request_line(1, custom_id="stream", stream=True), "invalid_request", "body.stream"),
    "string": (request_line(2, custom_id="string", messages="hello"), "invalid_request", "body.messages"),
    "empty": (request_line(3, custom_id="empty", messages=[], seed=1), "invalid_request", "body.messages"),
    "twin": (request_line(3, custom_id="twin", messages=[], seed=1), "invalid_request", "body.messages"),
    "nameless": (request_line(4, custom_id="nameless", model=None), "missing_model", "body.model"),
}
DATA = b"\n".join([request_line(10), *(line for line, _, _ in BAD.values()), request_line(11)]) + b"\n"


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def read(rooms: Rooms, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_results(rooms, file_id)]


def ids_of(rooms: Rooms, file_id: str | None) -> list[str]:
    return [line["custom_id"] for line in read(rooms, file_id)]


async def run_batch(rooms: Rooms, data: bytes, **request: Any) -> Batch:
    batch = await wait_for_batch(rooms, (await create_batch(rooms, data, **request)).id)
    assert batch.state is State.COMPLETED
    return batch


async def test_each_is_a_line_of_the_error_file_and_the_others_run(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, DATA)
        assert ids_of(rooms, batch.output_file_id) == ["request-10", "request-11"]
        errors = {line["custom_id"]: line["error"] for line in read(rooms, batch.error_file_id)}
        assert list(errors) == list(BAD)
        assert [error["code"] for error in errors.values()] == [code for _, code, _ in BAD.values()]
        assert r"\ud83d at byte 65 of the line" in errors["half"]["message"]
        assert (batch.counts.total, batch.counts.answered, batch.counts.failed) == (12, 2, 10)
        assert sorted(engine.markers("received")) == [marker_of(10), marker_of(11)]


async def test_openais_form_of_it_is_that_of_a_refusal(engine: NullEngine, tmp_path: Path) -> None:
    target = b'"method":"POST","url":"/chat/completions","custom_id"'
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, DATA.replace(b'"custom_id"', target), dialect=Dialect.OPENAI)
        assert ids_of(rooms, batch.output_file_id) == ["request-10", "request-11"]
        for line, (_, code, param) in zip(read(rooms, batch.error_file_id), BAD.values(), strict=True):
            assert (line["error"], line["response"]["status_code"]) == (None, 400)
            error = line["response"]["body"]["error"]
            assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)


async def test_what_is_wrong_for_one_endpoint_or_model_is_right_for_another(engine: NullEngine, tmp_path: Path) -> None:
    lines = [
        request_line(0),
        b'{"custom_id":"in","body":{"model":"m","input":"marker-000001"}}',
        b'{"custom_id":"in-nameless","body":{"input":"marker-000002"}}',
    ]
    async with open_house(tmp_path, engine.url) as rooms:
        file = await seal(rooms.intake, b"\n".join(lines))

        async def run(endpoint: str, model_id: str | None) -> tuple[list[str], list[str]]:
            created = await rooms.turns.create(BatchRequest(OWNER, endpoint, file.id, model_id=model_id))
            batch = await wait_for_batch(rooms, created.id)
            assert batch.state is State.COMPLETED
            return ids_of(rooms, batch.output_file_id), ids_of(rooms, batch.error_file_id)

        assert await run("/v1/chat/completions", None) == (["request-0"], ["in", "in-nameless"])
        assert await run("/v1/embeddings", None) == (["in"], ["request-0", "in-nameless"])
        assert await run("/v1/embeddings", "m") == (["in", "in-nameless"], ["request-0"])


async def test_if_none_is_left_the_batch_fails_and_says_why(engine: NullEngine, tmp_path: Path) -> None:
    data = b"\n".join(line for line, _, _ in BAD.values())
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, (await create_batch(rooms, data)).id)
        assert (batch.state, batch.output_file_id, batch.error_file_id) == (State.FAILED, None, None)
        assert [problem.line for problem in batch.problems] == list(range(1, len(BAD) + 1))
        assert engine.stats()["received"] == 0


async def test_thousands_of_them_are_recorded_and_none_twice(engine: NullEngine, tmp_path: Path) -> None:
    lines = [request_line(number, stream=number % 3 > 0) for number in range(3000)]
    engine.behave(faults={marker_of(0): ["hang"]})
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.1) as rooms:
        created = await create_batch(rooms, b"\n".join(lines))
        async with asyncio.timeout(60):
            while (await rooms.progress.count(await rooms.metadata.get_batch(created.id))).done < 2999:
                await asyncio.sleep(0.01)
    # Stopped with one request on its way: the next one to take the turn finds the refusals in the journal.
    engine.behave(faults={})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, created.id)
        assert (batch.counts.answered, batch.counts.failed) == (1000, 2000)
        assert len(set(ids_of(rooms, batch.error_file_id))) == 2000


async def test_an_index_of_before_they_were_noted_sends_them(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        file = await seal(rooms.intake, request_line(0) + b"\n" + request_line(1, stream=True))
        index = LineIndex.decode(rooms.blobs.read(index_key(file.id)))
        index.shapes[1] = UNKNOWN_SHAPE
        rooms.blobs.write(index_key(file.id), index.encode())
        created = await rooms.turns.create(BatchRequest(OWNER, "/v1/chat/completions", file.id))
        await wait_for_batch(rooms, created.id)
        assert sorted(engine.markers("received")) == [marker_of(0), marker_of(1)]
