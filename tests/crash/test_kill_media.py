"""A process is killed while it fetches: what was whole is found again, what was half is not there."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backfill.media import MediaLibrary
from bench.media.hostile_server import Asked, HostileServer, respond
from tests.support.media import configure, list_files, picture, png

CLIPS = 6
_FETCH = """
import asyncio, sys
from pathlib import Path
from backfill.media import MediaLibrary
from tests.support.media import configure, picture

async def main(folder, *links):
    library = MediaLibrary(Path(folder), configure())
    media = library.open("batch", "owner")
    for link in links:
        await media.get(picture(link))
        print(link, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with HostileServer() as running:
        yield running


def picture_of(number: int) -> bytes:
    # Of more than one piece, so that some of it is written before it is whole.
    return png(padding=1_500_000 + number)


async def start_fetching(folder: Path, links: list[str], fault: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _FETCH, str(folder), *links),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"BACKFILL_FAULT": fault},
    )


async def fetch_the_rest(folder: Path, links: list[str]) -> None:
    """What a new process does; then all is there, and nothing else."""
    library = MediaLibrary(folder, configure())
    await library.sweep(["batch"])
    media = library.open("batch", "owner")
    for number, link in enumerate(links):
        found = media.find(picture(link))
        if found is not None:
            assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
        file = await media.get(picture(link))
        assert file.path.read_bytes() == picture_of(number)
    await library.cache.close()
    assert library.cache.size_bytes == sum(path.stat().st_size for path in list_files(folder))
    assert len(list_files(folder)) == len(links)
    await library.remove("batch")
    assert list_files(folder) == []
    await library.close()


@pytest.mark.parametrize("count", [1, 2, CLIPS])
@pytest.mark.parametrize("point", ["blob.written", "blob.synced", "blob.sealed"])
async def test_a_kill_at_any_step_of_writing_loses_only_what_was_under_way(
    tmp_path: Path, server: HostileServer, point: str, count: int
) -> None:
    for number in range(CLIPS):
        server.replies[f"/{number}"] = respond(picture_of(number))
    links = [server.url(f"/{number}") for number in range(CLIPS)]
    process = await start_fetching(tmp_path, links, f"{point}:{count}")
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(output.split()) == count - 1
    asked = len(server.asked)
    assert asked == count
    await fetch_the_rest(tmp_path, links)
    # What was sealed at the kill is found, though nobody was told.
    assert len(server.asked) - asked == CLIPS - count + (point != "blob.sealed")


async def test_a_kill_in_mid_fetch_leaves_nothing_half(tmp_path: Path, server: HostileServer) -> None:
    body = picture_of(1)
    stuck = asyncio.Event()

    async def get_stuck(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if stuck.is_set():
            await respond(body)(asked, writer)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1])
        await writer.drain()
        stuck.set()
        await asyncio.Event().wait()

    server.replies["/0"] = respond(picture_of(0))
    server.replies["/1"] = get_stuck
    links = [server.url("/0"), server.url("/1")]
    process = await start_fetching(tmp_path, links)
    await stuck.wait()
    # The first piece of the second is on disk, under no name.
    while len(list_files(tmp_path)) < 2:
        await asyncio.sleep(0.01)
    process.kill()
    await process.communicate()
    await fetch_the_rest(tmp_path, links)
    assert [asked.target for asked in server.asked] == ["/0", "/1", "/1"]
