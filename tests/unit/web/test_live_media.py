"""Live requests that name pictures: engines get bytes, and links only by setting."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from backfill.app import Rooms
from backfill.media import library
from tests.support.media import data_url, png
from tests.support.media_servers import EngineWithEyes, PictureServer
from tests.support.rooms import open_house, seal, wait_until
from tests.unit.web.asgi import Stream
from tests.unit.web.relaying import Seen, open_relayed, open_worker
from tests.unit.web.serving import serve

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_BACKOFF_S", 0.0)


@pytest.fixture
async def engine() -> AsyncIterator[EngineWithEyes]:
    async with EngineWithEyes() as running:
        yield running


@pytest.fixture
async def pictures() -> AsyncIterator[PictureServer]:
    async with PictureServer() as running:
        yield running


House = Callable[..., AbstractAsyncContextManager[tuple[FastAPI, Rooms]]]


@pytest.fixture(params=[False, True], ids=["answered here", "passed on to a worker"])
def house(request: pytest.FixtureRequest) -> House:
    """Clients see no difference."""

    @asynccontextmanager
    async def open_any(tmp_path: Path, engine: EngineWithEyes, **settings: Any) -> AsyncIterator[tuple[FastAPI, Rooms]]:
        is_open = {"media__allow": ["127.0.0.1/32"], "media__allow_http": True}
        async with AsyncExitStack() as stack:
            rooms = await stack.enter_async_context(open_house(tmp_path, engine.url, **is_open | settings))
            if request.param:
                worker = await stack.enter_async_context(open_worker(rooms))
                yield await stack.enter_async_context(open_relayed(rooms, Seen([worker]))), rooms
            else:
                yield serve(rooms)[0], rooms

    return open_any


def ask(*sources: str, **members: Any) -> bytes:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "hi é"}]
    parts += [{"type": "image_url", "image_url": {"url": source}} for source in sources]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]} | members).encode()


async def post(app: FastAPI, body: bytes) -> tuple[int, dict[str, Any]]:
    async with Stream(app, CHAT, method="POST", body=body) as stream:
        return stream.status, json.loads(await stream.read_all())


def urls_sent(engine: EngineWithEyes) -> list[str]:
    content = engine.bodies[-1]["messages"][0]["content"]
    return [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def media_of(rooms: Rooms) -> list[Path]:
    return list((rooms.config.data_dir / "media").iterdir())


async def test_bytes_in_the_request_pass_as_they_are(house: House, tmp_path: Path, engine: EngineWithEyes) -> None:
    async with house(tmp_path, engine) as (app, rooms):
        body = ask(data_url(png()), temperature=1.50)
        status, _ = await post(app, body)
        assert (status, engine.raw) == (200, [body])
        assert media_of(rooms) == []


async def test_engines_get_bytes_in_place_of_links_and_ids(
    house: House, tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    async with house(tmp_path, engine) as (app, rooms):
        status, _ = await post(app, ask(pictures.link(3), data_url(png())))
        assert (status, urls_sent(engine)) == (200, [data_url(pictures.picture(3)), data_url(png())])
        await wait_until(lambda: media_of(rooms) == [])
        # Fetched anew for the next one: what lies there may be another thing by then.
        await post(app, ask(pictures.link(3)))
        assert pictures.fetches == {"/3.png": 2}


async def test_links_by_setting(house: House, tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer) -> None:
    async with house(tmp_path / "pass", engine, media__links="pass") as (app, _):
        assert (await post(app, ask(pictures.link(3))))[0] == 200
        assert urls_sent(engine) == [pictures.link(3)]
    async with house(tmp_path / "refuse", engine, media__links="refuse") as (app, _):
        status, answer = await post(app, ask(pictures.link(3)))
        assert (status, answer["error"]["code"]) == (400, "invalid_media")
    assert len(engine.bodies) == 1
    assert not pictures.fetches


async def test_what_cannot_be_had_is_told_and_reaches_no_engine(
    house: House, tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    pictures.statuses = {"/1.png": 404, "/2.png": 503}
    async with house(tmp_path, engine, media__tries=2) as (app, rooms):
        status, answer = await post(app, ask(pictures.link(1)))
        assert (status, answer["error"]["code"]) == (400, "invalid_media")
        assert answer["error"]["param"] == "body.messages[0].content[1].image_url.url"
        assert "secret" not in answer["error"]["message"]
        status, answer = await post(app, ask(pictures.link(2)))
        assert (status, answer["error"]["code"]) == (502, "media_unavailable")
        foreign = await seal(rooms.intake, png(), purpose="vision", owner="1" * 24)
        status, answer = await post(app, ask(foreign.id))
        assert (status, answer["error"]["code"]) == (400, "invalid_media")
        assert engine.bodies == []
        await wait_until(lambda: media_of(rooms) == [])


async def test_whoever_hangs_up_ends_the_fetch(
    house: House, tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    pictures.held = {"/0.png"}
    async with house(tmp_path, engine) as (app, rooms):
        stream = Stream(app, CHAT, method="POST", body=ask(pictures.link(0)))
        await pictures.asked.wait()
        stream.disconnect()
        await stream.task
        await wait_until(lambda: pictures.under_way == 0)
        await wait_until(lambda: media_of(rooms) == [])
        # What an earlier process left goes at the next start.
        (rooms.config.data_dir / "media" / "live-left").mkdir()
    async with house(tmp_path, engine) as (_, rooms):
        assert media_of(rooms) == []
