"""The built-in engine with a real model: what it answers, and that no end leaves anything behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from pydantic import SecretStr
from yarl import URL

from backfill.config import DEFAULT_MODEL, ExternalEngineConfig, LlamaCppEngineConfig
from backfill.engines import Answered, EngineClient, ExternalReplica, LlamaCppReplica, Lost, LostReason, Refused
from backfill.engines.host_process import KEY_VARIABLE
from backfill.engines.llamacpp.messages import HostSettings
from tests.engine.exercise_engine import exercise_engine, list_open_paths

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
DEADLINE_S = 30.0
SETTINGS = {"slots": 2, "context_tokens": 512, "threads": 1}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def until_running(replica: LlamaCppReplica, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await replica.read_gauges()).running != count:
            await asyncio.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie that its new parent has not taken yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def make_body(**members: object) -> bytes:
    return msgspec.json.encode({"model": "m", "temperature": 0, "max_tokens": 4} | members)


def chat(text: str, **members: object) -> bytes:
    return make_body(messages=[{"role": "user", "content": text}], **members)


def embed(given: str | list[str]) -> bytes:
    return msgspec.json.encode({"model": "m", "input": given})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module")
def make(
    engine_client: EngineClient, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., LlamaCppReplica]:
    def make_replica(**settings: Any) -> LlamaCppReplica:
        config = LlamaCppEngineConfig(**SETTINGS | settings)
        log_dir = tmp_path_factory.mktemp("log")
        return LlamaCppReplica("local", config, engine_client, models_dir=models_dir, log_dir=log_dir)

    return make_replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(make: Callable[..., LlamaCppReplica]) -> AsyncIterator[LlamaCppReplica]:
    replica = make()
    yield replica
    await replica.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def replica(shared: LlamaCppReplica) -> LlamaCppReplica:
    await shared.start()
    return shared


async def ask(replica: LlamaCppReplica, endpoint: str, body: bytes) -> tuple[Answered, Any]:
    reply = await replica.send(endpoint, body)
    assert isinstance(reply, Answered), reply
    return reply, msgspec.json.decode(reply.body)


async def test_conformance(make: Callable[..., LlamaCppReplica]) -> None:
    await exercise_engine(make)


async def test_conformance_of_an_external_engine(replica: LlamaCppReplica, engine_client: EngineClient) -> None:
    config = ExternalEngineConfig(url=f"{replica.address}/v1", api_key=SecretStr(replica.key))
    await exercise_engine(lambda: ExternalReplica("far", config, engine_client))


async def test_nobody_else_gets_in(replica: LlamaCppReplica) -> None:
    assert replica.pid is not None
    words = await asyncio.to_thread(Path(f"/proc/{replica.pid}/cmdline").read_text)
    assert replica.key not in words
    for key in ("", "wrong"):
        assert await list_open_paths(f"{replica.address}", key) == ["GET /health"]
    assert "POST /v1/chat/completions" in await list_open_paths(f"{replica.address}", replica.key)


async def test_chat(replica: LlamaCppReplica) -> None:
    reply, answer = await ask(replica, CHAT, chat("Hello!", model="any-name"))
    assert answer["model"] == "any-name"
    assert answer["choices"][0]["message"]["content"]
    assert reply.usage.prompt_tokens == answer["usage"]["prompt_tokens"] > 0
    assert 0 < reply.usage.completion_tokens <= 4


async def test_completions(replica: LlamaCppReplica) -> None:
    reply, answer = await ask(replica, COMPLETIONS, make_body(prompt="One, two, three,"))
    assert answer["choices"][0]["text"]
    assert 0 < reply.usage.completion_tokens <= 4


async def test_choices_are_all_counted(replica: LlamaCppReplica) -> None:
    one, _ = await ask(replica, CHAT, chat("Hello!", ignore_eos=True))
    reply, answer = await ask(replica, CHAT, chat("Hello!", ignore_eos=True, n=3, seed=1))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert reply.usage.completion_tokens == 12
    assert reply.usage.prompt_tokens == one.usage.prompt_tokens


async def test_prompts_are_all_counted(replica: LlamaCppReplica) -> None:
    reply, answer = await ask(replica, COMPLETIONS, make_body(prompt=["one two", "three"], ignore_eos=True))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert reply.usage.completion_tokens == 8
    assert reply.usage.prompt_tokens == 3


async def test_a_prompt_over_the_context_is_refused(replica: LlamaCppReplica) -> None:
    reply = await replica.send(CHAT, chat("word " * 2000))
    assert isinstance(reply, Refused)
    assert reply.status == 400
    assert b"context" in reply.body


async def test_the_context_is_the_models_own(make: Callable[..., LlamaCppReplica], engine_client: EngineClient) -> None:
    replica = make(slots=1, context_tokens=0)
    try:
        await replica.start()
        headers = {"Authorization": f"Bearer {replica.key}"}
        _, text = await engine_client.get(URL(f"{replica.address}/props"), headers, DEADLINE_S)
        assert msgspec.json.decode(text)["default_generation_settings"]["n_ctx"] == 8192
    finally:
        await replica.stop()


async def test_an_image_is_not_fetched(replica: LlamaCppReplica) -> None:
    asked = asyncio.Event()
    trap = await asyncio.start_server(lambda _reader, _writer: asked.set(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/x.png"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    reply = await replica.send(CHAT, make_body(messages=[{"role": "user", "content": content}]))
    trap.close()
    assert isinstance(reply, Refused)
    assert not asked.is_set()


async def test_gauges_follow_a_call_that_is_given_up(replica: LlamaCppReplica) -> None:
    call = asyncio.create_task(replica.send(CHAT, chat("Tell me all.", max_tokens=200, ignore_eos=True)))
    await until_running(replica, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await ask(replica, CHAT, chat("Hello!"))
    await until_running(replica, 0)


async def test_embeddings(make: Callable[..., LlamaCppReplica]) -> None:
    replica = make(embeddings=True)
    await replica.start()
    try:
        reply, answer = await ask(replica, EMBEDDINGS, embed(["one two", "three"]))
        assert len(answer["data"]) == 2
        assert answer["model"] == "m"
        assert reply.usage.prompt_tokens == 3
        # Longer than llama.cpp's usual batch of 512 would be no trouble; longer than the context is refused.
        too_long = await replica.send(EMBEDDINGS, embed("word " * 2000))
        assert isinstance(too_long, Refused)
        assert isinstance(await replica.send(CHAT, chat("Hello!")), Refused)
    finally:
        await replica.stop()


async def test_a_killed_child_is_noticed_and_started_again(replica: LlamaCppReplica) -> None:
    pid = replica.pid
    assert pid is not None
    call = asyncio.create_task(replica.send(CHAT, chat("Tell me all.", max_tokens=400, ignore_eos=True)))
    await until_running(replica, 1)
    os.kill(pid, signal.SIGKILL)
    lost = await call
    assert isinstance(lost, Lost)
    assert lost.reason is LostReason.DISCONNECTED
    assert lost.engine_ended
    await until(lambda: replica.address is None)
    unsent = await replica.send(CHAT, chat("Hello!"))
    assert isinstance(unsent, Lost)
    assert unsent.never_sent
    await replica.start()
    assert replica.pid != pid
    await ask(replica, CHAT, chat("Hello!"))


async def test_a_stop_with_work_in_flight_is_prompt(make: Callable[..., LlamaCppReplica]) -> None:
    replica = make()
    await replica.start()
    pid = replica.pid
    assert pid is not None
    call = asyncio.create_task(replica.send(CHAT, chat("Tell me all.", max_tokens=400, ignore_eos=True)))
    await until_running(replica, 1)
    began = time.monotonic()
    await replica.stop()
    assert time.monotonic() - began < 3
    assert not is_alive(pid)
    assert isinstance(await call, Lost)


async def test_a_file_that_is_no_model(make: Callable[..., LlamaCppReplica], tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    replica = make(model=str(tmp_path / "bad.gguf"))
    with pytest.raises(Exception, match=r"(cannot load its model|ended while it loaded).*local\.log"):
        await replica.start()
    assert replica.pid is None
    await replica.stop()


PARENT = """
import asyncio, sys
from pathlib import Path
from backfill.config import LlamaCppEngineConfig
from backfill.engines import EngineClient, LlamaCppReplica

async def main():
    config = LlamaCppEngineConfig(slots=1, context_tokens=256, threads=1)
    models_dir, log_dir = Path(sys.argv[1]), Path(sys.argv[2])
    replica = LlamaCppReplica("local", config, EngineClient(60), models_dir=models_dir, log_dir=log_dir)
    await replica.start()
    print(replica.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_parent_leaves_no_orphan(models_dir: Path, tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(models_dir), str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while not (line := await parent.stdout.readline()).strip().isdigit():
            assert line, "the parent ended early"
    pid = int(line)
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(pid))


async def test_the_child_ends_when_stdin_does(models_dir: Path) -> None:
    model = str(models_dir / f"{DEFAULT_MODEL}.Q8_0.gguf")
    settings = HostSettings(model=model, alias="m", slots=1, context_tokens=256, threads=1, embeddings=False)
    command = [sys.executable, "-m", "backfill.engines.llamacpp.host", msgspec.json.encode(settings).decode()]
    environment = os.environ | {KEY_VARIABLE: "k"}

    def run() -> int:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert b'"url":"http://127.0.0.1:' in child.stdout.readline()
            child.stdin.close()
            return child.wait(DEADLINE_S)

    assert await asyncio.to_thread(run) == 0
