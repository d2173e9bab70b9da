"""OpenVINO with the packaged model, as an engine of its own and as the one that "auto" chooses."""

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from structlog.testing import capture_logs
from yarl import URL

from backfill.config import DEFAULT_MODEL, AutoEngineConfig, OpenVinoEngineConfig
from backfill.engines import (
    Answered,
    AutoReplica,
    CacheHabit,
    EngineClient,
    Lost,
    LostReason,
    OpenVinoReplica,
    Refused,
    auto,
)
from backfill.engines.models.openvino import find_obstacle
from backfill.engines.models.requantise import _copy_metadata
from backfill.errors import EngineUnavailable
from tests.engine.exercise_engine import exercise_engine

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
DEADLINE_S = 60.0
SETTINGS = {"concurrency": 8, "context_tokens": 512, "kv_cache_gb": 1, "threads": 1}


async def until_running(replica: OpenVinoReplica, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await replica.read_gauges()).running != count:
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie that its new parent has not taken yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def chat(text: str, **members: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    return msgspec.json.encode({"model": "m", "messages": messages, "temperature": 0, "max_tokens": 4} | members)


async def ask(replica: OpenVinoReplica | AutoReplica, body: bytes) -> Any:
    reply = await replica.send(CHAT, body)
    assert isinstance(reply, Answered), reply
    return msgspec.json.decode(reply.body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module")
def make(
    engine_client: EngineClient, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., OpenVinoReplica]:
    def make_replica(**settings: Any) -> OpenVinoReplica:
        config = OpenVinoEngineConfig(**SETTINGS | settings)
        log_dir = tmp_path_factory.mktemp("log")
        return OpenVinoReplica("local", config, engine_client, models_dir=models_dir, log_dir=log_dir)

    return make_replica


@pytest.fixture(scope="module")
def make_auto(
    engine_client: EngineClient, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AutoReplica]:
    def make_replica(**settings: Any) -> AutoReplica:
        config = AutoEngineConfig(**SETTINGS | {"slots": 2} | settings)
        log_dir = tmp_path_factory.mktemp("log")
        return AutoReplica("local", config, engine_client, models_dir=models_dir, log_dir=log_dir)

    return make_replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(make: Callable[..., OpenVinoReplica]) -> AsyncIterator[OpenVinoReplica]:
    replica = make()
    yield replica
    await replica.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def replica(shared: OpenVinoReplica) -> OpenVinoReplica:
    await shared.start()
    return shared


@pytest.fixture(scope="module")
def unreadable(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model with one tensor as Q5_0, which llama.cpp reads and OpenVINO does not."""
    path = tmp_path_factory.mktemp("model") / "mixed.gguf"
    reader = GGUFReader(models_dir / f"{DEFAULT_MODEL}.Q8_0.gguf")
    writer = GGUFWriter(path, "llama")
    _copy_metadata(reader, writer)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name == "blk.0.attn_k.weight":
            kind = GGMLQuantizationType.Q5_0
            data = quantize(dequantize(data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def test_conformance(make: Callable[..., OpenVinoReplica]) -> None:
    # Here as a user has it, with as many threads as the library chooses.
    await exercise_engine(functools.partial(make, threads=0))


async def test_a_killed_child_is_noticed_and_started_again(replica: OpenVinoReplica) -> None:
    pid = replica.pid
    assert pid is not None
    call = asyncio.create_task(replica.send(CHAT, chat("Tell me all.", max_tokens=400, ignore_eos=True)))
    await until_running(replica, 1)
    os.kill(pid, signal.SIGKILL)
    lost = await call
    assert isinstance(lost, Lost)
    assert lost.reason is LostReason.DISCONNECTED
    assert lost.engine_ended
    async with asyncio.timeout(DEADLINE_S):
        while replica.address is not None:
            await asyncio.sleep(0.01)
    await replica.start()
    assert replica.pid != pid
    assert (await ask(replica, chat("Hello!")))["choices"]


async def test_the_first_token_is_told_before_the_answer(replica: OpenVinoReplica) -> None:
    told = asyncio.Event()
    call = asyncio.create_task(replica.send(CHAT, chat("Tell me all.", max_tokens=300, ignore_eos=True), told.set))
    async with asyncio.timeout(DEADLINE_S):
        await told.wait()
    assert not call.done()
    assert isinstance(await call, Answered)


async def test_the_model_is_named_as_the_request_did(replica: OpenVinoReplica) -> None:
    assert (await ask(replica, chat("Hello!", model="any-name")))["model"] == "any-name"


async def test_choices_are_all_counted(replica: OpenVinoReplica) -> None:
    answer = await ask(replica, chat("Hello!", ignore_eos=True, n=3, seed=1))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 12


async def test_a_prompt_over_the_context_is_refused(replica: OpenVinoReplica) -> None:
    reply = await replica.send(CHAT, chat("word " * 2000))
    assert isinstance(reply, Refused)
    assert b"context" in reply.body


async def test_the_context_is_the_models_own(make: Callable[..., OpenVinoReplica], engine_client: EngineClient) -> None:
    replica = make(context_tokens=0)
    try:
        await replica.start()
        headers = {"Authorization": f"Bearer {replica.key}"}
        _, text = await engine_client.get(URL(f"{replica.address}/v1/models"), headers, DEADLINE_S)
        assert msgspec.json.decode(text)["data"][0]["max_model_len"] == 8192
    finally:
        await replica.stop()


async def test_what_it_does_not_serve_is_refused(replica: OpenVinoReplica) -> None:
    assert isinstance(await replica.send("/v1/embeddings", b"{}"), Refused)
    assert isinstance(await replica.send("/v1/responses", b"{}"), Refused)


async def test_a_stop_with_work_in_flight_leaves_no_child(make: Callable[..., OpenVinoReplica]) -> None:
    replica = make()
    await replica.start()
    pid = replica.pid
    assert pid is not None
    call = asyncio.create_task(replica.send(CHAT, chat("Tell me all.", max_tokens=400, ignore_eos=True)))
    await until_running(replica, 1)
    await replica.stop()
    assert not is_alive(pid)
    assert isinstance(await call, Lost)


async def test_a_file_that_is_no_model(make: Callable[..., OpenVinoReplica], tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    replica = make(model=str(tmp_path / "bad.gguf"))
    with pytest.raises(EngineUnavailable, match=r"(cannot load its model|ended while it loaded).*local\.log"):
        await replica.start()
    assert replica.pid is None


async def test_auto_conformance(make_auto: Callable[..., AutoReplica]) -> None:
    await exercise_engine(functools.partial(make_auto, threads=0))


async def test_auto_takes_openvino_for_the_packaged_model(make_auto: Callable[..., AutoReplica]) -> None:
    replica = make_auto()
    try:
        await replica.start()
        assert replica.kind == "openvino"
        assert replica.cache_habit is CacheHabit.PREFIX_LEADER
        assert replica.limits.concurrency == 8
    finally:
        await replica.stop()


async def test_auto_takes_llamacpp_for_a_file_that_openvino_cannot_read(
    make_auto: Callable[..., AutoReplica], unreadable: Path
) -> None:
    assert find_obstacle(unreadable) == "it holds tensors of type Q5_0"
    await _check_fallback(make_auto(model=str(unreadable)))


async def test_auto_takes_llamacpp_once_openvino_failed_to_load(
    make_auto: Callable[..., AutoReplica], unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "find_obstacle", lambda _path: None)
    with capture_logs() as logs:
        await _check_fallback(make_auto(model=str(unreadable)))
    (reason,) = [entry["reason"] for entry in logs if entry["log_level"] == "warning"]
    assert "cannot load its model" in reason
    assert "gguf" in reason


async def _check_fallback(replica: AutoReplica) -> None:
    try:
        await replica.start()
        assert replica.kind == "llamacpp"
        assert replica.cache_habit is CacheHabit.SLOT_AFFINITY
        assert replica.limits.concurrency == 2
        assert (await ask(replica, chat("Hello!")))["choices"]
    finally:
        await replica.stop()


async def test_deterministic_is_refused_where_only_llamacpp_could(
    make_auto: Callable[..., AutoReplica], unreadable: Path
) -> None:
    replica = make_auto(model=str(unreadable), deterministic=True)
    with pytest.raises(EngineUnavailable, match="cannot answer deterministically"):
        await replica.start()
    assert replica.pid is None
