"""kill -9 in the middle of fetches: what was whole is used again, what was not is never taken for whole."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.client import Client
from tests.support.media import data_url
from tests.support.media_servers import EngineWithEyes, PictureServer
from tests.support.rooms import wait_until
from tests.support.server_process import BackfillServer

LINKS = 20
LINES = 60
CONCURRENCY = 8
IS_OPEN = {"media__allow": '["127.0.0.1/32"]', "media__allow_http": "true"}
Result = TypeVar("Result")


def seeing_line(number: int, link: str) -> bytes:
    parts = [{"type": "text", "text": f"text {number}"}, {"type": "image_url", "image_url": {"url": link}}]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    return json.dumps({"custom_id": f"request-{number}", "body": body}).encode() + b"\n"


async def call(do: Callable[..., Result], *values: Any) -> Result:
    """In a thread: the engine and the pictures are served by this event loop."""
    return await asyncio.to_thread(do, *values)


def fetched_files(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "media").rglob("*") if path.is_file()]


@pytest.mark.parametrize("half", [False, True])
async def test_the_server_dies_in_the_middle_of_fetches(tmp_path: Path, *, half: bool) -> None:
    async with EngineWithEyes() as engine, PictureServer() as pictures:
        # Fewer than there are connections to one host.
        stuck = {f"/{number}.png" for number in range(4, LINKS, 7)}
        pictures.halved, pictures.held = (stuck, set()) if half else (set(), stuck)
        server = BackfillServer(tmp_path / "data", engine.url, **IS_OPEN)
        await call(server.start)
        try:
            client = Client(server)
            data = b"".join(seeing_line(number, pictures.link(number % LINKS)) for number in range(LINES))
            batch_id = await call(client.create, await call(client.upload, data))
            expected = sum(f"/{number % LINKS}.png" not in stuck for number in range(LINES))
            await pictures.asked.wait()
            await wait_until(lambda: len(engine.bodies) == expected)
            assert pictures.under_way > 0
            await call(server.kill)
            await wait_until(lambda: pictures.under_way == 0)
            whole = {path for path, count in pictures.fetches.items() if path not in stuck and count == 1}
            assert len(whole) == LINKS - len(stuck)
            pictures.let_go.set()
            await call(server.start)
            batch = await call(client.wait_for_end, batch_id)
            output = [json.loads(line) for line in await call(client.download, batch["output_file_id"])]
        finally:
            await call(server.terminate)
        assert [line["custom_id"] for line in output] == [f"request-{number}" for number in range(LINES)]
        assert batch.get("error_file_id") is None
        # What was whole was not fetched again, and no engine saw a half.
        assert all(pictures.fetches[path] == 1 for path in whole)
        for body in engine.bodies:
            text, part = body["messages"][0]["content"]
            number = int(text["text"].split()[1])
            assert part["image_url"]["url"] == data_url(pictures.picture(number % LINKS))
        sent = Counter(engine.texts)
        assert sum(sent.values()) <= LINES + CONCURRENCY + expected
        assert fetched_files(tmp_path / "data") == []


async def test_what_a_killed_server_left_of_an_ended_batch_goes_at_the_next_start(tmp_path: Path) -> None:
    async with EngineWithEyes() as engine, PictureServer() as pictures:
        pictures.held = {"/0.png"}
        server = BackfillServer(tmp_path / "data", engine.url, **IS_OPEN)
        await call(server.start)
        try:
            client = Client(server)
            lines = seeing_line(0, pictures.link(0)) + seeing_line(1, pictures.link(1))
            batch_id = await call(client.create, await call(client.upload, lines))
            await pictures.asked.wait()
            await wait_until(lambda: len(fetched_files(tmp_path / "data")) > 0)
            await call(server.kill)
            await call(server.start)
            await call(client.request, "POST", f"/v1/batches/{batch_id}/cancel")
            batch = await call(client.wait_for_end, batch_id)
            assert batch["status"] == "CANCELLED"
            await call(server.terminate)
            await call(server.start)
            await wait_until(lambda: list((tmp_path / "data" / "media").iterdir()) == [])
        finally:
            await call(server.terminate)
