"""Replicas without an engine behind them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from backfill.config import ExternalEngineConfig, LlamaCppEngineConfig
from backfill.engines import (
    Answered,
    EngineClient,
    ExternalReplica,
    Gauges,
    LlamaCppReplica,
    Lost,
    Refused,
)
from backfill.engines.child import server as child_server
from backfill.engines.child.restarts import RestartPace
from backfill.errors import EngineUnavailable
from tests.unit.engines.conftest import ScriptedServer

CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=30) as opened:
        yield opened


@pytest.fixture
def replica(server: ScriptedServer, engine_client: EngineClient) -> ExternalReplica:
    config = ExternalEngineConfig(url=f"{server.url.origin()}/base/v1", api_key=SecretStr("sk-1"), concurrency=3)
    return ExternalReplica("far", config, engine_client)


async def test_external_is_found_and_called(server: ScriptedServer, replica: ExternalReplica) -> None:
    server.answer(404)  # an engine without a list of models is an engine all the same
    await asyncio.gather(replica.start(), replica.start())
    assert replica.address == f"{server.url.origin()}/base"
    server.answer(200, b'{"choices":[{"message":{}}]}')
    assert isinstance(await replica.send(CHAT, b"{}"), Answered)
    assert [head.split(b" ")[1] for head, _ in server.requests] == [b"/base/v1/models", b"/base/v1/chat/completions"]
    assert all(b"Authorization: Bearer sk-1" in head for head, _ in server.requests)
    assert replica.limits.concurrency == 3
    await replica.stop()
    await replica.stop()
    assert replica.address is None


@pytest.mark.parametrize("status", [401, 403, 308])
async def test_external_with_a_wrong_key_or_url(server: ScriptedServer, replica: ExternalReplica, status: int) -> None:
    server.answer(status, b"sk-1")
    with pytest.raises(EngineUnavailable) as caught:
        await replica.start()
    assert "sk-1" not in caught.value.message
    assert replica.address is None


async def test_external_that_goes_away(server: ScriptedServer, replica: ExternalReplica) -> None:
    server.answer(200, b"{}", Connection="close")
    await replica.start()
    await server.stop()
    reply = await replica.send(CHAT, b"{}")
    assert isinstance(reply, Lost)
    assert reply.never_sent
    assert replica.address is None
    with pytest.raises(EngineUnavailable, match="connection refused"):
        await replica.start()
    assert await replica.read_gauges() == Gauges()


async def test_external_gauges(server: ScriptedServer, replica: ExternalReplica) -> None:
    server.answer(200, b"vllm:num_requests_running 4\n")
    server.answer(404, b"vllm:num_requests_running 4\n")
    assert await replica.read_gauges() == Gauges(running=4)
    assert await replica.read_gauges() == Gauges()


async def test_external_endpoint_it_does_not_have(replica: ExternalReplica) -> None:
    assert isinstance(await replica.send("/v1/nowhere", b"{}"), Refused)


async def test_credentials_in_the_url_become_a_header(server: ScriptedServer, engine_client: EngineClient) -> None:
    url = str(server.url.with_user("ann").with_password("pw"))
    replica = ExternalReplica("far", ExternalEngineConfig(url=url), engine_client)
    server.answer(200, b"{}")
    await replica.start()
    assert b"Authorization: Basic YW5uOnB3" in server.requests[0][0]
    assert replica.address is not None
    assert "pw" not in replica.address


@pytest.fixture
def built_in(tmp_path: Path, engine_client: EngineClient) -> Callable[..., LlamaCppReplica]:
    def make(**settings: object) -> LlamaCppReplica:
        config = LlamaCppEngineConfig.model_validate(settings)
        return LlamaCppReplica("near", config, engine_client, models_dir=tmp_path, log_dir=tmp_path)

    return make


async def test_built_in_that_is_not_up(built_in: Callable[..., LlamaCppReplica]) -> None:
    replica = built_in()
    reply = await replica.send(CHAT, b'{"messages":[{"role":"user","content":"x"}]}')
    assert isinstance(reply, Lost)
    assert reply.never_sent
    assert isinstance(await replica.send("/v1/embeddings", b"{}"), Refused)
    assert await replica.read_gauges() == Gauges()
    await replica.stop()
    await replica.stop()


async def test_built_in_without_its_model(built_in: Callable[..., LlamaCppReplica]) -> None:
    with pytest.raises(EngineUnavailable, match=r"There is no model 'nowhere\.gguf'"):
        await built_in(model="nowhere.gguf").start()


async def test_a_stop_ends_a_start(built_in: Callable[..., LlamaCppReplica], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, given_up = threading.Event(), threading.Event()

    def fetch_for_ever(_name: str, _models_dir: Path, progress: Callable[[str, int, int], None]) -> Path:
        begun.set()
        try:
            while True:
                progress("downloading", 0, 0)
        finally:
            given_up.set()

    monkeypatch.setattr(child_server, "ensure_model", fetch_for_ever)
    replica = built_in()
    starts = [asyncio.create_task(replica.start()) for _ in range(2)]
    assert await asyncio.to_thread(begun.wait, 5)
    await replica.stop()
    for start in starts:
        with pytest.raises(EngineUnavailable, match="stopped while it started"):
            await start
    assert await asyncio.to_thread(given_up.wait, 5)


async def test_a_cancelled_caller_leaves_the_start_to_the_others(
    built_in: Callable[..., LlamaCppReplica], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fetch(_name: str, _models_dir: Path, _progress: object) -> Path:
        begun.set()
        assert go_on.wait(5)
        return Path("there")

    async def refuse_to_run(_server: child_server.ChildServer, _launch: child_server.Launch) -> None:
        raise EngineUnavailable("as far as it goes")

    monkeypatch.setattr(child_server, "ensure_model", fetch)
    replica = built_in()
    monkeypatch.setattr(child_server.ChildServer, "_spawn", refuse_to_run)
    first, second = asyncio.create_task(replica.start()), asyncio.create_task(replica.start())
    assert await asyncio.to_thread(begun.wait, 5)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    with pytest.raises(EngineUnavailable, match="as far as it goes"):
        await second


def test_restarts_wait_longer_and_longer() -> None:
    pace = RestartPace()
    assert pace.wait_s(0) == 0
    waits = []
    for _ in range(9):
        pace.note_end(100, up_s=1)
        waits.append(pace.wait_s(100))
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pace.wait_s(125) == 5
    assert pace.wait_s(200) == 0
    pace.note_end(300, up_s=60)
    assert pace.wait_s(300) == 0
    for _ in range(5000):
        pace.note_end(300, up_s=0)
    assert pace.wait_s(300) == 30
