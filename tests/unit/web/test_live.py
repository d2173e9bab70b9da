"""Live requests pass through: what the client sent goes to the engine, and what the engine says comes back as it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from backfill.app import Rooms
from tests.support.live_engine import LiveEngine, Received
from tests.support.rooms import open_house, wait_until
from tests.unit.web.asgi import Stream
from tests.unit.web.relaying import Seen, open_relayed, open_worker
from tests.unit.web.serving import serve

CHAT = "/v1/chat/completions"
ENDPOINTS = (CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses")


def ask(model: str = "small", **members: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi é"}]} | members).encode()


@pytest.fixture
async def engine() -> AsyncIterator[LiveEngine]:
    async with LiveEngine() as running:
        yield running


House = Callable[..., AbstractAsyncContextManager[tuple[FastAPI, Rooms]]]


@asynccontextmanager
async def open_alone(tmp_path: Path, engine: LiveEngine, **settings: Any) -> AsyncIterator[tuple[FastAPI, Rooms]]:
    async with open_house(tmp_path, engine.url, **settings) as rooms:
        yield serve(rooms)[0], rooms


@asynccontextmanager
async def open_passed_on(tmp_path: Path, engine: LiveEngine, **settings: Any) -> AsyncIterator[tuple[FastAPI, Rooms]]:
    async with (
        open_house(tmp_path, engine.url, **settings) as rooms,
        open_worker(rooms) as worker,
        open_relayed(rooms, Seen([worker])) as app,
    ):
        yield app, rooms


@pytest.fixture(params=[open_alone, open_passed_on], ids=["answered here", "passed on to a worker"])
def house(request: pytest.FixtureRequest) -> House:
    """Clients see no difference."""
    found: House = request.param
    return found


def post(app: FastAPI, body: bytes, path: str = CHAT, headers: dict[str, str] | None = None) -> Stream:
    return Stream(app, path, method="POST", body=body, headers=headers)


def answer_with(*pieces: bytes) -> Callable[[Received], None]:
    def answer(received: Received) -> None:
        for piece in pieces:
            received.send(piece)
        received.end()

    return answer


async def read_error(app: FastAPI, body: bytes, path: str = CHAT) -> tuple[int, dict[str, Any], dict[str, str]]:
    async with asyncio.timeout(30), post(app, body, path) as stream:
        return stream.status, json.loads(await stream.read_all())["error"], stream.headers


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_bytes_pass_both_ways_as_they_are(house: House, engine: LiveEngine, tmp_path: Path, path: str) -> None:
    said = b'{ "odd" : 1.0,\n  "usage": {"prompt_tokens":1} }'
    engine.headers = {"Content-Type": "application/json; odd=1", "X-Engine": "yes", "Keep-Alive": "timeout=5"}
    engine.on_request = answer_with(said)
    body = ask(stream=False) + b"\n "
    async with house(tmp_path, engine) as (app, _), post(app, body, path) as stream:
        assert (stream.status, await stream.read_all()) == (200, said)
        assert stream.headers["content-type"] == "application/json; odd=1"
        assert stream.headers["x-engine"] == "yes"
        assert "keep-alive" not in stream.headers
        assert stream.headers["x-request-id"].startswith("req_")
    received = await engine.received.get()
    assert (received.path, received.body) == (path, body)


@pytest.mark.parametrize("root", ["/openai/v1", "/together/v1", "", "/v1/v1"])
async def test_every_root_that_clients_use(house: House, engine: LiveEngine, tmp_path: Path, root: str) -> None:
    engine.on_request = answer_with(b"{}")
    async with house(tmp_path, engine) as (app, _), post(app, ask(), f"{root}/chat/completions") as stream:
        assert stream.status == 200
        await stream.read_all()
    assert (await engine.received.get()).path == CHAT


async def test_events_come_one_by_one_as_the_engine_sends_them(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    async with house(tmp_path, engine) as (app, _), asyncio.timeout(30), post(app, ask(stream=True)) as stream:
        received = await engine.received.get()
        assert stream.headers["content-type"] == "text/event-stream"
        for piece in (b'data: {"a":1}\n\n', b": a comment\n\n", b"data: [DONE]\n\n"):
            # The next one is not sent before this one is here.
            received.send(piece)
            assert await stream.read_piece() == piece
        received.end()
        assert await stream.read_all() == b""
        assert stream.is_complete


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_goes_ends_the_engines_work(
    house: House, engine: LiveEngine, tmp_path: Path, is_stream: bool
) -> None:
    async with house(tmp_path, engine) as (app, rooms), asyncio.timeout(30):
        async with post(app, ask(stream=is_stream)) as stream:
            received = await engine.received.get()
            assert rooms.fleet.presences["null"].running == 1
            stream.disconnect()
            await received.cancelled.wait()
        assert rooms.fleet.presences["null"].running == 0
        assert rooms.fleet.presences["null"].waiting == 0


async def test_a_client_that_goes_before_the_engine_says_anything(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    async with house(tmp_path, engine) as (app, rooms), asyncio.timeout(30):
        engine.holds_head = True
        stream = post(app, ask())
        received = await engine.received.get()
        stream.disconnect()
        await received.cancelled.wait()
        await stream.task
        assert rooms.fleet.presences["null"].running == 0


async def test_a_renamed_model_is_the_only_member_that_changes(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    engine.on_request = answer_with(b"{}")
    engines = {"null": {"url": engine.url, "models": {"small": "org/small-v2"}}}
    body = b'{"temperature": 0.70, "model" : "small","x":[1, 2]}'
    async with house(tmp_path, engine, engines=engines) as (app, _), post(app, body) as stream:
        await stream.read_all()
    assert (await engine.received.get()).body == b'{"temperature":0.70,"model":"org/small-v2","x":[1, 2]}'


async def test_the_callers_key_is_not_passed_on_and_the_engines_is_added(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    engine.on_request = answer_with(b"{}")
    engines = {"null": {"url": engine.url, "api_key": "engine-key"}}
    async with house(tmp_path, engine, engines=engines, server__api_keys=("client-key",)) as (app, _):
        headers = {"authorization": "Bearer client-key", "cookie": "a=b"}
        async with post(app, ask(), headers=headers) as stream:
            await stream.read_all()
        async with post(app, ask(), headers={"authorization": "Bearer other"}) as stream:
            assert stream.status == 401
    sent = (await engine.received.get()).headers
    assert sent["Authorization"] == "Bearer engine-key"
    assert "client-key" not in str(sent)
    assert "Cookie" not in sent
    assert engine.received.empty()


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_an_engines_error_passes_in_its_own_shape(
    house: House, engine: LiveEngine, tmp_path: Path, status: int
) -> None:
    said = b'{"object":"error","message":"no","code":1}'
    engine.status = status
    engine.headers = {"Content-Type": "application/problem+json", "Retry-After": "7"}
    engine.on_request = answer_with(said)
    async with house(tmp_path, engine) as (app, _), post(app, ask()) as stream:
        assert (stream.status, await stream.read_all()) == (status, said)
        assert stream.headers["content-type"] == "application/problem+json"
        assert stream.headers["retry-after"] == "7"


async def test_the_engines_key_is_in_no_error(house: House, engine: LiveEngine, tmp_path: Path) -> None:
    engine.status = 400
    engine.on_request = answer_with(b'{"error":"engine-key is odd"}')
    engines = {"null": {"url": engine.url, "api_key": "engine-key"}}
    async with house(tmp_path, engine, engines=engines) as (app, _), post(app, ask()) as stream:
        assert await stream.read_all() == b'{"error":"[key] is odd"}'


@pytest.mark.parametrize("status", [401, 403, 302])
async def test_what_is_wrong_with_our_own_key_is_no_matter_of_the_client(
    house: House, engine: LiveEngine, tmp_path: Path, status: int
) -> None:
    engine.status = status
    engine.headers = {"Location": "http://secret.internal/"}
    engine.on_request = answer_with(b"{}")
    async with house(tmp_path, engine) as (app, _):
        found, error, headers = await read_error(app, ask())
    assert (found, error["code"]) == (503, "engine_unavailable")
    assert "location" not in headers


async def test_an_engine_that_is_down_is_a_503_that_may_be_tried_again(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    await engine.stop()
    async with house(tmp_path, engine) as (app, rooms):
        status, error, headers = await read_error(app, ask())
        assert (status, error["code"], error["type"]) == (503, "engine_unavailable", "server_error")
        assert int(headers["retry-after"]) > 0
        assert engine.url not in error["message"]
        assert rooms.fleet.presences["null"].running == 0


async def test_a_replica_that_is_down_leaves_its_requests_to_another(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    async with LiveEngine() as other:
        other.on_request = answer_with(b"{}")
        await engine.stop()
        engines = {"down": {"url": engine.url}, "up": {"url": other.url}}
        async with house(tmp_path, engine, engines=engines) as (app, _), post(app, ask()) as stream:
            assert stream.status == 200
            await stream.read_all()


async def test_an_engine_that_shares_memory_is_not_started_for_them(
    house: House, engine: LiveEngine, tmp_path: Path
) -> None:
    engine.on_request = answer_with(b"{}")
    engines = {"null": {"url": engine.url, "exclusive": "gpu"}}
    async with house(tmp_path, engine, engines=engines) as (app, rooms):
        status, error, _headers = await read_error(app, ask())
        assert (status, error["code"]) == (503, "engine_unavailable")
        await rooms.fleet.replicas[0].start()
        async with post(app, ask()) as stream:
            assert stream.status == 200
            await stream.read_all()


async def test_the_least_busy_replica_is_asked(house: House, engine: LiveEngine, tmp_path: Path) -> None:
    async with LiveEngine() as other, asyncio.timeout(30):
        engines = {"one": {"url": engine.url}, "two": {"url": other.url}}
        async with house(tmp_path, engine, engines=engines) as (app, rooms):
            await asyncio.gather(*(replica.start() for replica in rooms.fleet.replicas))
            async with post(app, ask()), post(app, ask()):
                first, second = await engine.received.get(), await other.received.get()
                first.end()
                second.end()


@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_that_breaks_off_is_not_taken_for_whole(
    house: House, engine: LiveEngine, tmp_path: Path, is_stream: bool
) -> None:
    engine.breaks = True
    engine.on_request = answer_with(b"data: 1\n\n")
    async with house(tmp_path, engine) as (app, rooms), post(app, ask(stream=is_stream)) as stream:
        text = await stream.read_all()
        await stream.task
        assert stream.is_complete == is_stream
        if is_stream:
            event = json.loads(text.split(b"data: ")[-1])
            assert event["error"]["code"] == "connection_lost"
        await wait_until(lambda: rooms.fleet.presences["null"].running == 0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", (400, "invalid_json", None)),
        (b"{", (400, "invalid_json", None)),
        (b'{"model":"\xff"}', (400, "invalid_json", None)),
        (b"{}", (400, "invalid_request", "model")),
        (b'{"model":7}', (400, "invalid_request", "model")),
        (b'{"model":"other"}', (404, "model_not_found", "model")),
    ],
)
async def test_what_no_engine_is_asked(
    house: House, engine: LiveEngine, tmp_path: Path, body: bytes, expected: tuple[int, str, str | None]
) -> None:
    async with house(tmp_path, engine, engines={"null": {"url": engine.url, "models": ["small"]}}) as (app, _):
        status, error, _headers = await read_error(app, body)
    assert (status, error["code"], error["param"]) == expected
    assert engine.received.empty()


async def test_a_model_that_is_served_elsewhere_says_where(house: House, engine: LiveEngine, tmp_path: Path) -> None:
    engines = {"null": {"url": engine.url, "models": ["small"], "endpoints": ["/v1/embeddings"]}}
    async with house(tmp_path, engine, engines=engines) as (app, _):
        status, error, _headers = await read_error(app, ask())
    assert (status, error["code"]) == (404, "model_not_found")
    assert "/v1/embeddings" in error["message"]


async def test_a_body_that_is_too_large(house: House, engine: LiveEngine, tmp_path: Path) -> None:
    async with house(tmp_path, engine, live__body_size_bytes=100) as (app, _):
        status, error, _headers = await read_error(app, ask(x="y" * 100))
    assert (status, error["code"]) == (413, "request_too_large")


async def test_limits_are_told_and_kept(house: House, engine: LiveEngine, tmp_path: Path) -> None:
    engine.on_request = answer_with(b"{}")
    async with house(tmp_path, engine, live__requests_per_minute=2) as (app, _):
        left = []
        for _ in range(2):
            async with post(app, ask()) as stream:
                await stream.read_all()
                left.append(stream.headers["x-ratelimit-remaining-requests"])
                assert stream.headers["x-ratelimit-limit-requests"] == "2"
        assert left == ["1", "0"]
        status, error, headers = await read_error(app, ask())
    assert (status, error["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(headers["retry-after"]) <= 30
    assert headers["x-should-retry"] == "true"
    assert engine.received.qsize() == 2


@pytest.mark.parametrize(
    ("members", "pieces", "used"),
    [
        ({"max_tokens": 900}, (b'{"choices":[],"usage":{"prompt_tokens":7,', b'"completion_tokens":13}}'), 20),
        (
            {"max_tokens": 900, "stream": True},
            (b'data: {"choices":[1]}\n\n', b'data: {"usage":{"prompt_tokens":7,"completion_tokens":13}}\n\n'),
            20,
        ),
        ({"max_tokens": 900, "stream": True}, (b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n"), None),
    ],
    ids=["whole", "stream with usage", "stream without"],
)
async def test_tokens_are_corrected_by_the_answer(
    house: House,
    engine: LiveEngine,
    tmp_path: Path,
    members: dict[str, Any],
    pieces: tuple[bytes, ...],
    used: int | None,
) -> None:
    engine.on_request = answer_with(*pieces)
    body = ask(**members)
    expected = used if used is not None else len(body) // 4 + 1 + 3
    async with house(tmp_path, engine, live__tokens_per_minute=1000) as (app, _):
        async with post(app, body) as stream:
            await stream.read_all()
            assert int(stream.headers["x-ratelimit-remaining-tokens"]) < 100
        async with post(app, ask(max_tokens=1)) as stream:
            await stream.read_all()
            left = int(stream.headers["x-ratelimit-remaining-tokens"])
    own = len(ask(max_tokens=1)) // 4 + 1 + 1
    # A bucket fills while the test runs, by less than this.
    assert 1000 - expected - own <= left < 1000 - expected - own + 60
