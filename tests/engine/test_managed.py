"""A server that Backfill starts itself: the null engine stands for vLLM, with a worker process as vLLM has them."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backfill.config import ManagedEngineConfig
from backfill.engines import Answered, EngineClient, Gauges, Lost, ManagedReplica, Refused
from backfill.engines.child.server import NOT_LOADED
from backfill.errors import EngineUnavailable

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
DEADLINE_S = 30.0
# The worker does not end when it is asked to: only the end of the whole group gets it.
SERVER = """\
import argparse, json, os, subprocess, sys
sys.path.insert(0, {root!r})
from bench.null import engine as null_engine

parser = argparse.ArgumentParser()
parser.add_argument("--port")
words = sys.argv[1:]
port = parser.parse_known_args()[0].port
stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
worker = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
worker.stdout.readline()
with open({notes!r}, "w") as file:
    json.dump({{"words": words, "server": os.getpid(), "worker": worker.pid,
               "environment": dict(os.environ)}}, file)
sys.argv = ["null_engine", "--port", port]
null_engine.main()
"""


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie that its new parent has not taken yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=30) as client:
        yield client


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A program that takes vLLM's arguments."""
    script = tmp_path / "server.py"
    script.write_text(SERVER.format(root=str(ROOT), notes=str(tmp_path / "notes.json")))
    return [sys.executable, str(script), "serve"]


@pytest.fixture
def read_notes(tmp_path: Path) -> Callable[[], Any]:
    return lambda: json.loads((tmp_path / "notes.json").read_text())


@pytest.fixture
def make(engine_client: EngineClient, tmp_path: Path, command: list[str]) -> Callable[..., ManagedReplica]:
    def make_replica(**settings: Any) -> ManagedReplica:
        settings = {"kind": "vllm", "model": "owner/model", "command": command} | settings
        config = ManagedEngineConfig.model_validate(settings)
        return ManagedReplica("gpu", config, engine_client, log_dir=tmp_path / "logs")

    return make_replica


def address_of(replica: ManagedReplica) -> str | None:
    return replica.address


async def test_it_is_asked_at_what_it_is_listed_for(make: Callable[..., ManagedReplica]) -> None:
    replica = make(endpoints=[CHAT, "/v1/anything"])
    await replica.start()
    said = {}
    for endpoint in ("/v1/anything", "/v1/embeddings"):
        reply = await replica.send(endpoint, b'{"model":"owner/model","input":"a"}')
        assert isinstance(reply, Refused)
        said[endpoint] = b"does not serve" in reply.body
    # The one is refused by the server, which has no such route, the other before it is sent.
    assert said == {"/v1/anything": False, "/v1/embeddings": True}
    await replica.stop()


async def test_it_is_started_called_and_ended(
    make: Callable[..., ManagedReplica], read_notes: Callable[[], Any]
) -> None:
    replica = make(arguments=["--max-model-len", "4096"])
    assert address_of(replica) is None
    unsent = await replica.send(CHAT, b"{}")
    assert isinstance(unsent, Lost)
    assert unsent.never_sent
    assert await replica.read_gauges() == Gauges()
    await asyncio.gather(*(replica.start() for _ in range(4)))
    address = address_of(replica)
    assert address is not None
    notes = read_notes()
    port = address.rpartition(":")[2]
    name = ["--served-model-name", "owner/model"]
    expected = ["serve", "owner/model", "--host", "127.0.0.1", "--port", port, *name]
    expected += ["--scheduling-policy", "priority", "--max-model-len", "4096"]
    assert notes["words"] == expected
    assert isinstance(await replica.send(CHAT, b'{"model":"owner/model","messages":[]}'), Answered)
    assert isinstance(await replica.send("/v1/nowhere", b"{}"), Refused)
    await replica.stop()
    await replica.stop()
    assert address_of(replica) is None
    assert not is_alive(notes["server"])
    assert not is_alive(notes["worker"])


async def test_a_killed_server_takes_its_workers_along_and_is_started_again(
    make: Callable[..., ManagedReplica], read_notes: Callable[[], Any]
) -> None:
    replica = make()
    await replica.start()
    before = read_notes()
    os.kill(before["server"], signal.SIGKILL)
    await until(lambda: replica.address is None)
    assert not is_alive(before["worker"])
    await replica.start()
    after = read_notes()
    assert after["server"] != before["server"]
    assert isinstance(await replica.send(CHAT, b"{}"), Answered)
    await replica.stop()
    assert not is_alive(after["worker"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
async def test_a_killed_keeper_ends_the_server(
    make: Callable[..., ManagedReplica], read_notes: Callable[[], Any]
) -> None:
    replica = make()
    await replica.start()
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGKILL)
    notes = read_notes()
    await until(lambda: not is_alive(notes["server"]))
    await until(lambda: replica.address is None)
    os.kill(notes["worker"], signal.SIGKILL)  # nobody is left to do it
    await replica.stop()


async def test_a_server_that_stopped_listening_is_not_up(make: Callable[..., ManagedReplica]) -> None:
    replica = make()
    await replica.start()
    assert replica._caller is not None
    replica._caller._is_up = False  # what a refused connection does
    assert address_of(replica) is None
    await replica.start()
    assert address_of(replica) is not None
    await replica.stop()


async def test_a_server_that_ends_early_names_its_log(make: Callable[..., ManagedReplica], tmp_path: Path) -> None:
    replica = make(command=[sys.executable, "-c", "import sys; sys.exit('no GPU here')"])
    with pytest.raises(EngineUnavailable, match=r"ended while it loaded \(exit code 1\).*gpu\.log") as caught:
        await replica.start()
    assert caught.value.code == NOT_LOADED
    assert "no GPU here" in (tmp_path / "logs" / "gpu.log").read_text()
    assert replica.pid is None


async def test_a_server_that_is_never_ready_is_given_up(make: Callable[..., ManagedReplica], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    silent = f"import os, pathlib, signal; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); signal.pause()"
    replica = make(command=[sys.executable, "-c", silent], start_timeout_s=5)
    with pytest.raises(EngineUnavailable, match="did not load within 5 s"):
        await replica.start()
    assert note.is_file()
    assert not is_alive(int(note.read_text()))


async def test_what_is_not_installed_is_named(make: Callable[..., ManagedReplica]) -> None:
    with pytest.raises(
        EngineUnavailable, match=r"needs vLLM, and the program 'nowhere'.*`pip install vllm`.*gpu\.comm"
    ):
        await make(command=["nowhere"]).start()
    with pytest.raises(EngineUnavailable, match=r"needs SGLang, and the package 'sglang'.*`pip install sglang`"):
        await make(kind="sglang", command=[]).start()


def key_of(replica: ManagedReplica) -> str:
    """What the replica sends as its key."""
    assert replica._caller is not None
    return replica._caller._headers["Authorization"].removeprefix("Bearer ")


async def test_vllm_has_a_key_that_nobody_else_can_see(
    make: Callable[..., ManagedReplica], read_notes: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "the operator's own server's")
    replica = make()
    keys = []
    for _ in range(2):
        await replica.start()
        notes = read_notes()
        keys.append(notes["environment"]["VLLM_API_KEY"])
        assert len(keys[-1]) > 30
        assert key_of(replica) == keys[-1]
        assert keys[-1] not in " ".join(notes["words"])
        await replica.stop()
    assert keys[0] != keys[1]


@pytest.mark.parametrize("arguments", [["--api-key", "mine"], ["--api-key=mine"], ["--api-key", "x", "--api-key=mine"]])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_the_operators_own_key_is_used(
    make: Callable[..., ManagedReplica], arguments: list[str], kind: str
) -> None:
    replica = make(arguments=arguments, kind=kind)
    await replica.start()
    assert key_of(replica) == "mine"
    await replica.stop()


async def test_a_server_gets_none_of_our_secrets(
    make: Callable[..., ManagedReplica], read_notes: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BACKFILL_SERVER__API_KEYS", "OPENAI_API_KEY", "HF_TOKEN", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")
    replica = make()
    await replica.start()
    environment = read_notes()["environment"]
    assert {"HF_TOKEN", "CUDA_VISIBLE_DEVICES", "PATH"} <= environment.keys()
    assert environment.keys().isdisjoint({"BACKFILL_SERVER__API_KEYS", "OPENAI_API_KEY"})
    await replica.stop()


async def test_sglang_gets_its_own_words(make: Callable[..., ManagedReplica], read_notes: Callable[[], Any]) -> None:
    replica = make(kind="sglang", model="/models/small")
    await replica.start()
    words = read_notes()["words"]
    assert words[1:3] == ["--model-path", "/models/small"]
    assert words[words.index("--served-model-name") + 1] == "small"
    assert "--enable-metrics" in words
    assert words[words.index("--api-key") + 1] == key_of(replica)
    await replica.stop()


PARENT = """
import asyncio, json, sys
from pathlib import Path
from backfill.config import ManagedEngineConfig
from backfill.engines import EngineClient, ManagedReplica

async def main():
    config = ManagedEngineConfig(kind="vllm", model="m", command=json.loads(sys.argv[1]))
    replica = ManagedReplica("gpu", config, EngineClient(60), log_dir=Path(sys.argv[2]))
    await replica.start()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_backfill_leaves_nothing(
    command: list[str], tmp_path: Path, read_notes: Callable[[], Any]
) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, json.dumps(command), str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while (line := await parent.stdout.readline()) != b"up\n":
            assert line, "the parent ended early"
    notes = read_notes()
    assert is_alive(notes["server"])
    assert is_alive(notes["worker"])
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(notes["server"]) and not is_alive(notes["worker"]))
