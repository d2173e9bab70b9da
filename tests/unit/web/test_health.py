"""Whether the server lives and can do its work: each part fails and heals, and strangers are told one word of it."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backfill.app import open_rooms
from backfill.config import load_config
from backfill.dispatch import dispatcher
from backfill.errors import BackfillError
from backfill.server import find_readiness
from backfill.store.faults import failing
from backfill.web.api import Readiness, readiness
from backfill.web.api.schemas import Readiness as ReadinessAnswer
from bench.null.process import NullEngine
from tests.support.rooms import open_house
from tests.unit.web.conftest import MakeApi
from tests.unit.web.serving import serve

WELL = {"database": "ok", "disk": "ok", "dispatcher": "ok"}


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_AGE_MAX_S", 0.0)


async def ask(client: httpx.AsyncClient) -> tuple[int, dict[str, str]]:
    response = await client.get("/readyz")
    answer = ReadinessAnswer.model_validate(response.json())
    assert (response.status_code == 200) is (answer.status == "ok") is ("retry-after" not in response.headers)
    return response.status_code, {str(name): str(state) for name, state in answer.parts.items()}


async def test_each_part_fails_and_heals(tmp_path: Path, engine: NullEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        app, services = serve(rooms, readiness=find_readiness(rooms))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            async with asyncio.timeout(30):
                while await ask(client) != (200, WELL):
                    await asyncio.sleep(0.01)
            with failing("metadata.read", times=10_000):
                assert await ask(client) == (503, WELL | {"database": "unavailable"})
            for point in ("blob.create", "blob.write", "blob.synced"):
                with failing(point):
                    assert await ask(client) == (503, WELL | {"disk": "unavailable"}), point
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20))
                assert await ask(client) == (503, WELL | {"disk": "no room"})
            with monkeypatch.context() as patch:
                patch.setattr(dispatcher, "_SILENCE_MAX_S", -1.0)
                assert await ask(client) == (503, WELL | {"dispatcher": "unavailable"})
            async with asyncio.timeout(30):
                while await ask(client) != (200, WELL):
                    await asyncio.sleep(0.01)
            assert [path.name for path in (tmp_path / "blobs").iterdir() if "probe" in path.name] == []
            services.stopping.set()
            assert await ask(client) == (503, WELL | {"server": "stopping"})


async def test_a_dispatcher_that_does_not_run_is_no_dispatcher(tmp_path: Path, engine: NullEngine) -> None:
    overrides = {"data_dir": str(tmp_path), "engines": {"null": {"url": engine.url}}}
    async with open_rooms(load_config(environment={}, overrides=overrides)) as rooms:
        assert await find_readiness(rooms).look() == WELL | {"dispatcher": "unavailable"}


async def test_a_part_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_PATIENCE_S", 0.01)
    asked, healed = 0, asyncio.Event()

    async def hang() -> None:
        nonlocal asked
        asked += 1
        await healed.wait()

    looking = Readiness({"disk": hang})
    for _ in range(3):
        assert await looking.look() == {"disk": "no answer"}
    assert asked == 1
    healed.set()
    async with asyncio.timeout(30):
        while await looking.look() != {"disk": "ok"}:
            await asyncio.sleep(0.01)


async def test_many_who_ask_at_once_are_answered_by_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_AGE_MAX_S", 60.0)
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    looking = Readiness({"disk": count})
    await asyncio.gather(*(looking.look() for _ in range(50)))
    assert asked == 1


async def test_strangers_learn_nothing_of_the_machine(make_api: MakeApi, tmp_path: Path) -> None:
    async def fail() -> None:
        raise BackfillError(f"Cannot write {tmp_path}.")

    async def crash() -> None:
        raise RuntimeError(str(tmp_path))

    checks = {"database": crash, "disk": fail}
    api = await make_api(services={"readiness": Readiness(checks)}, **{"server.api_keys": ["key"]})
    response = await api.client.get("/readyz")
    assert (response.status_code, response.json()["parts"]) == (503, dict.fromkeys(checks, "unavailable"))
    assert str(tmp_path) not in response.text


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_a_process_that_lives_says_so_to_everybody(make_api: MakeApi, path: str) -> None:
    api = await make_api(**{"server.api_keys": ["key"]})
    for method in ("GET", "HEAD"):
        response = await api.client.request(method, path)
        assert response.status_code == 200
    assert (await api.client.get(path)).json() == {"status": "ok"}
