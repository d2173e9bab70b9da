"""Lines of batches give way in engines that schedule by priority, and the member goes nowhere else."""

import json
from collections.abc import AsyncIterator

import pytest

from backfill.config import ExternalEngineConfig
from backfill.engines import Answered, EngineClient, ExternalReplica
from tests.support.live_engine import LiveEngine, Received

CHAT = "/v1/chat/completions"
BODY = b'{"model": "small", "messages": [{"role":"user"}] }\n'
ANSWER = b'{"choices":[{"message":{}}]}'
REFUSAL = b'{"error":{"message":"Got priority 100 but Priority scheduling is not enabled."}}'


@pytest.fixture
async def engine() -> AsyncIterator[LiveEngine]:
    async with LiveEngine("small") as running:
        running.headers = {"Content-Type": "application/json"}
        yield running


@pytest.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(30) as client:
        yield client


async def start(engine: LiveEngine, client: EngineClient, owned_by: str) -> ExternalReplica:
    engine.owned_by = owned_by
    replica = ExternalReplica("e", ExternalEngineConfig(url=engine.url), client)
    await replica.start()
    return replica


def answer(received: Received) -> None:
    received.send(ANSWER)
    received.end()


@pytest.mark.parametrize(
    ("owned_by", "line", "live"),
    [("vllm", 100, None), ("sglang", None, 100), ("llamacpp", None, None), ("library", None, None)],
)
async def test_each_engine_in_its_own_way(
    engine: LiveEngine, engine_client: EngineClient, owned_by: str, line: int | None, live: int | None
) -> None:
    engine.on_request = answer
    replica = await start(engine, engine_client, owned_by)
    assert isinstance(await replica.send(CHAT, BODY), Answered)
    forwarded = await replica.forward(CHAT, BODY)
    forwarded.close()
    for expected in (line, live):
        body = (await engine.received.get()).body
        assert json.loads(body).get("priority") == expected
        # No other byte is another one.
        assert body == BODY if expected is None else body.startswith(BODY.rstrip()[:-1])


async def test_a_refusal_is_asked_for_once_and_remembered(engine: LiveEngine, engine_client: EngineClient) -> None:
    bodies: list[bytes] = []

    def judge(received: Received) -> None:
        bodies.append(received.body)
        is_marked = b'"priority"' in received.body
        engine.status = 400 if is_marked else 200
        received.send(REFUSAL if is_marked else ANSWER)
        received.end()

    engine.on_request = judge
    replica = await start(engine, engine_client, "vllm")
    for _ in range(3):
        assert isinstance(await replica.send(CHAT, BODY), Answered)
    assert [b'"priority"' in body for body in bodies] == [True, False, False, False]


@pytest.mark.parametrize("body", [b"{}", b"[]", b"{ }", b"", b'{"model":"m","priority":3}'])
async def test_what_is_no_request_or_has_a_priority_stays(
    engine: LiveEngine, engine_client: EngineClient, body: bytes
) -> None:
    engine.on_request = answer
    replica = await start(engine, engine_client, "vllm")
    await replica.send(CHAT, body)
    assert (await engine.received.get()).body == body


async def test_embeddings_have_none(engine: LiveEngine, engine_client: EngineClient) -> None:
    engine.on_request = answer
    replica = await start(engine, engine_client, "vllm")
    await replica.send("/v1/embeddings", BODY)
    assert (await engine.received.get()).body == BODY
