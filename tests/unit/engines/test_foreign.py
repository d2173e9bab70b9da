"""Requests of others on a server that is not ours alone: what its gauges count, less what is ours."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from backfill.config import ExternalEngineConfig
from backfill.engines import EngineClient, ExternalReplica
from backfill.engines.sequences import count_sequences
from tests.support.live_engine import LiveEngine

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"model":"m"}', 1),
        (b'{"n":4}', 4),
        (b'{"n":2,"best_of":5,"prompt":"a"}', 5),
        (b'{"prompt":["a","b","c"],"n":2}', 6),
        (b'{"prompt":[1,2,3]}', 1),
        (b'{"prompt":[[1,2],[3]]}', 2),
        (b'{"prompt":[]}', 1),
        (b'{"n":"many"}', 1),
        (b'{"n":true}', 1),
        (b'{"n":-3}', 1),
        (b'{"content":"say \\"n\\""}', 1),
        (b'"n"', 1),
        (b'{"n":', 1),
    ],
)
def test_a_request_counts_as_often_as_it_wants_answers(body: bytes, count: int) -> None:
    assert count_sequences(body) == count


@pytest.fixture
async def replica() -> AsyncIterator[tuple[LiveEngine, ExternalReplica]]:
    async with LiveEngine() as engine, EngineClient(30) as client:
        engine.headers = {"Content-Type": "application/json"}
        replica = ExternalReplica("e", ExternalEngineConfig(url=engine.url), client)
        await replica.start()
        yield engine, replica


async def test_what_is_ours_is_not_foreign_and_the_rest_is(replica: tuple[LiveEngine, ExternalReplica]) -> None:
    engine, external = replica
    line = asyncio.create_task(external.send(CHAT, b'{"n":3}'))
    received = await engine.received.get()
    live = await external.forward(CHAT, b"{}")
    engine.metrics = "vllm:num_requests_running 4\nvllm:num_requests_waiting 0\n"
    assert (await external.read_gauges()).foreign == 0
    engine.metrics = "vllm:num_requests_running 5\nvllm:num_requests_waiting 2\n"
    assert (await external.read_gauges()).foreign == 3
    live.close()
    assert (await external.read_gauges()).foreign == 4
    received.end()
    await line
    assert (await external.read_gauges()).foreign == 7
    engine.metrics = "vllm:num_requests_running 5\n"
    assert (await external.read_gauges()).foreign is None
