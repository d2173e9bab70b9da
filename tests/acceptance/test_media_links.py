"""A batch over HTTP whose lines link to pictures: each link has its own fate, and none of its secrets lies about."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.media.hostile_server import Asked, HostileServer, respond
from bench.null.process import NullEngine
from tests.support.client import Client
from tests.support.media import list_files, png
from tests.support.server_process import BackfillServer

SECRET = "signature-8d1c"
SETTINGS = {"media__allow_http": "true", "media__allow": '["127.0.0.1"]', "media__tries": "2"}


def request_line(number: int, link: str) -> str:
    part = {"type": "image_url", "image_url": {"url": link}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    return json.dumps({"custom_id": str(number), "body": body})


def run_batch(data_dir: Path, links: list[str]) -> tuple[dict[str, str], str]:
    """Custom id -> "answered", or what is said of the line; and the server's log."""
    with NullEngine() as engine, BackfillServer(data_dir, engine.url, **SETTINGS) as server:
        client = Client(server)
        lines = "\n".join(request_line(number, link) for number, link in enumerate(links))
        batch = client.wait_for_end(client.create(client.upload(lines.encode())))
        said = dict.fromkeys((str(number) for number in range(len(links))), "")
        for kind in ("output_file_id", "error_file_id"):
            content = client.request("GET", f"/v1/files/{batch[kind]}/content").text if batch[kind] else ""
            for line in map(json.loads, content.splitlines()):
                said[line["custom_id"]] += "answered" if kind == "output_file_id" else json.dumps(line)
        server.terminate()
    return said, "".join(server.log)


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with HostileServer() as running:
        yield running


async def test_links_are_fetched_or_fail_alone_and_no_secret_is_left(tmp_path: Path, server: HostileServer) -> None:
    server.replies |= {
        "/ok.png": respond(png()),
        "/gone.png": respond(status=410),
        "/away.png": respond(status=302, location=f"http://127.0.0.2/x?{SECRET}"),
        "/broken.png": respond(status=500),
        "/page.png": respond(b"<html>"),
    }
    paths = ("/ok.png", "/ok.png", "/gone.png", "/away.png", "/broken.png", "/page.png")
    links = [server.url(f"{path}?sig={SECRET}") for path in paths]
    links += [f"http://169.254.169.254/latest?{SECRET}", f"http://u:{SECRET}@127.0.0.1/a", f"file:///etc/{SECRET}"]
    said, log = await asyncio.to_thread(run_batch, tmp_path / "data", links)
    base = f"http://127.0.0.1:{server.port}"
    expected = [
        "answered",
        "answered",
        f"{base}/gone.png answers HTTP 410.",
        f"{base}/away.png is redirected: http://127.0.0.2/x is not at a public address (media.allow).",
        f"{base}/broken.png answers HTTP 500 (given up after 2 tries).",
        f"{base}/page.png is text/html, and no picture that is taken",
        "http://169.254.169.254/latest is not at a public address (media.allow).",
        "http://127.0.0.1/a is not taken with a user or a password in it.",
        "file: is not taken: only https: and data: URLs and ids of uploaded files are.",
    ]
    assert [text in said[str(number)] for number, text in enumerate(expected)] == [True] * len(expected), said
    assert sorted(asked.target.partition("?")[0] for asked in server.asked) == [
        "/away.png",
        "/broken.png",
        "/broken.png",
        "/gone.png",
        "/ok.png",
        "/page.png",
    ]
    # Only what the user uploaded has it: no journal, no result, no index, no log and no name of a file.
    holding = [path for path in list_files(tmp_path) if SECRET.encode() in path.read_bytes() or SECRET in str(path)]
    assert [path.name for path in holding] == ["content"]
    assert SECRET not in log
    assert list_files(tmp_path / "data" / "media") == []


def stop_and_cancel(data_dir: Path, link: str, asked: threading.Semaphore) -> tuple[int, str]:
    """Stop the server in mid-fetch, and cancel the batch in that of the next one: the exit code, and the status."""
    patient = SETTINGS | {"media__read_timeout_s": "600"}
    with NullEngine() as engine, BackfillServer(data_dir, engine.url, **patient) as server:
        client = Client(server)
        batch_id = client.create(client.upload(request_line(0, link).encode()))
        asked.acquire()
        code = server.terminate()
        server.start()
        asked.acquire()
        client.request("POST", f"/v1/batches/{batch_id}/cancel").raise_for_status()
        return code, str(client.wait_for_end(batch_id)["status"])


async def test_neither_a_stop_nor_a_cancel_waits_for_a_fetch(tmp_path: Path, server: HostileServer) -> None:
    asked = threading.Semaphore(0)

    async def get_stuck(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + png(padding=2_000_000))
        await writer.drain()
        asked.release()
        await asyncio.Event().wait()

    server.replies["/a.png"] = get_stuck
    ended = await asyncio.to_thread(stop_and_cancel, tmp_path / "data", server.url("/a.png"), asked)
    assert ended == (0, "CANCELLED")
    assert list_files(tmp_path / "data" / "media") == []
