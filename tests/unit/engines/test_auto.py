"""Which engine "auto" takes, and what it says of itself before and after; no engine runs here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from backfill.config import AutoEngineConfig, Config, load_config
from backfill.engines import (
    AutoReplica,
    CacheHabit,
    EngineClient,
    LlamaCppReplica,
    OpenVinoReplica,
    Refused,
    auto,
    make_deterministic,
)
from backfill.engines.child.server import NOT_LOADED
from backfill.errors import EngineUnavailable, InvalidConfig

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest_asyncio.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=30) as opened:
        yield opened


class Starts:
    """Stands for both engines: notes each start, and fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noted: list[str] = []
        self.failure: EngineUnavailable | None = None
        self.hold: asyncio.Event | None = None
        starts = self

        async def start_openvino(_replica: OpenVinoReplica) -> None:
            starts.noted.append("openvino")
            if starts.hold is not None:
                await starts.hold.wait()
            if starts.failure is not None:
                raise starts.failure

        async def start_llamacpp(_replica: LlamaCppReplica) -> None:
            starts.noted.append("llamacpp")

        async def find_file(_engine: str, model: str, _models_dir: Path) -> Path:
            return Path(model)

        monkeypatch.setattr(OpenVinoReplica, "start", start_openvino)
        monkeypatch.setattr(LlamaCppReplica, "start", start_llamacpp)
        monkeypatch.setattr(auto, "ensure_model_file", find_file)
        self.is_installed(monkeypatch, installed=True)
        self.obstacle(monkeypatch, None)

    def is_installed(self, monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
        monkeypatch.setattr(auto, "is_installed", lambda: installed)

    def obstacle(self, monkeypatch: pytest.MonkeyPatch, obstacle: str | None) -> None:
        monkeypatch.setattr(auto, "find_obstacle", lambda _path: obstacle)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(monkeypatch)


@pytest.fixture
def make(engine_client: EngineClient, tmp_path: Path) -> Callable[..., AutoReplica]:
    def make_replica(**settings: Any) -> AutoReplica:
        config = AutoEngineConfig.model_validate(settings)
        return AutoReplica("local", config, engine_client, models_dir=tmp_path, log_dir=tmp_path)

    return make_replica


def kind_of(replica: AutoReplica) -> str | None:
    return replica.kind


async def test_openvino_where_it_can(make: Callable[..., AutoReplica], starts: Starts) -> None:
    replica = make(concurrency=5, exclusive="cpu")
    assert kind_of(replica) is None
    with capture_logs() as logs:
        await asyncio.gather(replica.start(), replica.start())
    assert starts.noted == ["openvino"]
    assert kind_of(replica) == "openvino"
    assert replica.cache_habit is CacheHabit.PREFIX_LEADER
    assert (replica.limits.concurrency, replica.limits.first_concurrency) == (5, 5)
    assert replica.limits.exclusive == "cpu"
    (chosen,) = [entry for entry in logs if entry["event"] == "engine chosen"]
    assert (chosen["engine"], chosen["kind"]) == ("local", "openvino")
    await replica.start()
    assert starts.noted == ["openvino", "openvino"]


async def test_llamacpp_for_a_file_that_openvino_cannot_read(
    make: Callable[..., AutoReplica], starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts.obstacle(monkeypatch, "it holds tensors of type Q5_0")
    replica = make(slots=3)
    assert (replica.limits.concurrency, replica.cache_habit) == (64, CacheHabit.PREFIX_LEADER)
    with capture_logs() as logs:
        await replica.start()
    assert starts.noted == ["llamacpp"]
    assert (replica.limits.concurrency, replica.cache_habit) == (3, CacheHabit.SLOT_AFFINITY)
    assert [entry["why"] for entry in logs] == ["it holds tensors of type Q5_0"]


async def test_llamacpp_where_openvino_is_not_installed(
    make: Callable[..., AutoReplica], starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts.is_installed(monkeypatch, installed=False)
    replica = make()
    assert replica.limits.concurrency == 8
    await replica.start()
    assert (starts.noted, kind_of(replica)) == (["llamacpp"], "llamacpp")


async def test_llamacpp_after_openvino_failed_to_load(make: Callable[..., AutoReplica], starts: Starts) -> None:
    starts.failure = EngineUnavailable("Engine 'local' cannot load its model: bad.", code=NOT_LOADED)
    replica = make()
    with capture_logs() as logs:
        await replica.start()
        await replica.start()
    assert starts.noted == ["openvino", "llamacpp", "llamacpp"]
    assert kind_of(replica) == "llamacpp"
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["reason"] == starts.failure.message


async def test_another_failure_settles_nothing(make: Callable[..., AutoReplica], starts: Starts) -> None:
    starts.failure = EngineUnavailable("No memory.")
    replica = make()
    with pytest.raises(EngineUnavailable, match="No memory"):
        await replica.start()
    assert kind_of(replica) is None
    starts.failure = None
    await replica.start()
    assert starts.noted == ["openvino", "openvino"]


async def test_a_stop_ends_the_choice(make: Callable[..., AutoReplica], starts: Starts) -> None:
    starts.hold = asyncio.Event()
    replica = make()
    start = asyncio.create_task(replica.start())
    while not starts.noted:
        await asyncio.sleep(0)
    await replica.stop()
    with pytest.raises(EngineUnavailable, match="stopped while it started"):
        await start
    await replica.stop()


async def test_endpoints_do_not_depend_on_the_choice(
    make: Callable[..., AutoReplica], starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts.obstacle(monkeypatch, "no")
    replica = make()
    before = replica.limits.endpoints
    await replica.start()
    assert replica.limits.endpoints == before == {CHAT, "/v1/completions"}
    assert isinstance(await replica.send(RESPONSES, b"{}"), Refused)
    assert make(endpoints=[CHAT]).limits.endpoints == {CHAT}


async def test_deterministic_is_not_given_up(
    make: Callable[..., AutoReplica], starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts.obstacle(monkeypatch, "it is a mixture of experts")
    replica = make(deterministic=True, model="m.gguf")
    expected = "cannot answer deterministically: OpenVINO cannot run 'm.gguf': it is a mixture of experts"
    with pytest.raises(EngineUnavailable, match=expected):
        await replica.start()
    assert starts.noted == []
    starts.obstacle(monkeypatch, None)
    starts.failure = EngineUnavailable("Engine 'local' cannot load its model: bad.", code=NOT_LOADED)
    with capture_logs() as logs, pytest.raises(EngineUnavailable, match="cannot load its model: bad"):
        await replica.start()
    assert (starts.noted, logs) == (["openvino"], [])


def test_settings_are_made_deterministic(tmp_path: Path, starts: Starts) -> None:
    del starts  # OpenVINO is there, and the model is not yet
    config = make_deterministic(Config(models_dir=tmp_path))
    local, embeddings = config.engines["local"], config.engines["local-embeddings"]
    assert isinstance(local, AutoEngineConfig)
    assert local.deterministic
    assert embeddings == Config().engines["local-embeddings"]
    assert make_deterministic(config) == config


def test_settings_that_cannot_be_made_deterministic(
    tmp_path: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    external = load_config(environment={}, overrides={"engines": {"gpu": {"url": "http://127.0.0.1:1"}}})
    with pytest.raises(InvalidConfig, match="need a built-in engine"):
        make_deterministic(external)
    model = tmp_path / "m.gguf"
    model.touch()
    starts.obstacle(monkeypatch, "it is no GGUF file")
    built_in = load_config(environment={}, overrides={"engines": {"local": {"model": str(model)}}})
    with pytest.raises(InvalidConfig, match="it is no GGUF file") as caught:
        make_deterministic(built_in)
    assert caught.value.param == "engines.local.deterministic"
    starts.is_installed(monkeypatch, installed=False)
    with pytest.raises(InvalidConfig, match="OpenVINO is not installed"):
        make_deterministic(Config())
