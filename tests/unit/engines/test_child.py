"""A child process in all its ends; the children are a line of Python each."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from backfill.engines import Answered, EngineClient
from backfill.engines.child.server import NOT_LOADED, ChildServer, Launch
from backfill.engines.openvino.messages import Ready
from backfill.errors import EngineUnavailable
from tests.unit.engines.conftest import ScriptedServer

SAY = "import sys; print({!r}, flush=True); print('a note', file=sys.stderr, flush=True); sys.stdin.read()"


@pytest_asyncio.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=30) as opened:
        yield opened


@pytest.fixture
def make(engine_client: EngineClient, tmp_path: Path) -> Callable[..., ChildServer]:
    def make_server(program: str, start_timeout_s: float = 30.0) -> ChildServer:
        async def prepare() -> Launch:
            command = (sys.executable, "-c", program)
            return Launch(command=command, ready=Ready, start_timeout_s=start_timeout_s)

        return ChildServer("near", engine_client, tmp_path / "near.log", prepare)

    return make_server


def address_of(child: ChildServer) -> str | None:
    """The address now: mypy takes an attribute for the same as a moment ago, whatever was called since."""
    return child.address


async def test_it_is_up_once_it_said_so_and_is_well(
    make: Callable[..., ChildServer], server: ScriptedServer, tmp_path: Path
) -> None:
    child = make(SAY.format(f'{{"url":"{server.url.origin()}","context_tokens":9}}'))
    server.answer(200, b"{}")
    await child.start()
    await child.start()
    assert address_of(child) == str(server.url.origin())
    assert child.pid is not None
    assert server.requests[0][0].startswith(b"GET /health ")
    first_key = child.key
    server.answer(200, b"openvino:requests_running 2\n")
    assert (await child.read_gauges()).running == 2
    server.answer(200, b'{"choices":[{"message":{}}]}')
    assert isinstance(await child.send("/v1/chat/completions", b"{}"), Answered)
    assert all(f"Authorization: Bearer {first_key}\r\n".encode() in head for head, _ in server.requests)
    await child.stop()
    assert address_of(child) is None
    server.answer(200, b"{}")
    await child.start()
    await child.stop()
    assert (tmp_path / "near.previous.log").is_file()
    assert child.key not in ("", first_key)


async def test_it_gets_a_key_and_none_of_our_secrets(
    make: Callable[..., ChildServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKFILL_SERVER__API_KEYS", "sk-ours")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "theirs")
    child = make(f"import json, os; json.dump(dict(os.environ), open({str(tmp_path / 'found')!r}, 'w'))")
    with pytest.raises(EngineUnavailable):
        await child.start()
    found = json.loads((tmp_path / "found").read_text())
    assert found["PATH"]
    assert [value for name, value in found.items() if name.startswith("BACKFILL_")] == [child.key]
    assert "theirs" not in found.values()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (SAY.format('{"error":"no such type."}'), r"cannot load its model: no such type; see .*near\.log"),
        (SAY.format("loading…"), "does not say where it answers"),
        (SAY.format("x" * 100_000), "does not say where it answers"),
        (SAY.format('{"url":5}'), "does not say where it answers"),
        ("raise SystemExit(7)", r"ended while it loaded \(exit code 7\)"),
        ("import os; os.kill(os.getpid(), 9)", r"ended while it loaded \(signal 9\)"),
    ],
)
async def test_a_model_that_does_not_load(make: Callable[..., ChildServer], program: str, reason: str) -> None:
    child = make(program)
    with pytest.raises(EngineUnavailable, match=reason) as caught:
        await child.start()
    assert caught.value.code == NOT_LOADED
    assert (child.pid, child.address) == (None, None)


async def test_a_child_that_says_nothing_is_given_up(make: Callable[..., ChildServer]) -> None:
    with pytest.raises(EngineUnavailable, match=r"did not load within 0\.1 s") as caught:
        await make("import signal; signal.pause()", start_timeout_s=0.1).start()
    assert caught.value.code == NOT_LOADED


async def test_a_child_that_is_not_well_is_not_up(make: Callable[..., ChildServer], server: ScriptedServer) -> None:
    child = make(SAY.format(f'{{"url":"{server.url.origin()}"}}'))
    server.answer(503, b"{}")
    with pytest.raises(EngineUnavailable, match=r"not well \(HTTP 503\)") as caught:
        await child.start()
    assert caught.value.code != NOT_LOADED
    assert child.pid is None


async def test_a_program_that_is_not_there(engine_client: EngineClient, tmp_path: Path) -> None:
    async def prepare() -> Launch:
        return Launch(command=(str(tmp_path / "nowhere"),), ready=Ready)

    child = ChildServer("near", engine_client, tmp_path / "near.log", prepare)
    with pytest.raises(EngineUnavailable, match="cannot be started: No such file or directory"):
        await child.start()
