import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from backfill.batch import BatchProblem
from backfill.errors import StoreUnavailable
from backfill.media import MediaLibrary, MediaRefused, MediaUnavailable
from backfill.media import library as media_library
from backfill.media_file import MediaFile
from backfill.store import FileNamedLater
from backfill.store.faults import failing
from bench.media.hostile_server import Asked, HostileServer, respond, wave
from tests.support.media import clip, configure, data_url, list_files, picture, png

Failure = TypeVar("Failure", MediaRefused, MediaUnavailable)


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[MediaLibrary]:
    library = MediaLibrary(folder, configure(**settings))
    try:
        yield library
    finally:
        await library.close()


async def fail(kind: type[Failure], asking: Awaitable[object]) -> Failure:
    with pytest.raises(kind) as caught:
        await asking
    return caught.value


class Gate:
    """A reply that waits until it is opened."""

    def __init__(self, body: bytes) -> None:
        self._reply = respond(body)
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.reached.set()
        await self.open.wait()
        await self._reply(asked, writer)


async def test_a_link_is_fetched_and_found(tmp_path: Path, server: HostileServer) -> None:
    data = png()
    server.replies["/a.jpeg"] = respond(data, content_type="text/plain")
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        reference = picture(server.url("/a.jpeg?signature=secret"))
        assert media.find(reference) is None
        file = await media.get(reference)
        assert file.path.read_bytes() == data
        assert (file.filename, file.media_type, file.size_bytes) == ("picture.png", "image/png", len(data))
        assert file.sha256 == hashlib.sha256(data).hexdigest()
        assert media.find(reference) == file
        assert file.path.stat().st_mode & 0o077 == 0
        await media.close()
    assert len(server.asked) == 1
    assert server.asked[0].target == "/a.jpeg?signature=secret"
    assert not {"cookie", "authorization", "referer"} & server.asked[0].headers.keys()
    assert server.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb/%61?X-Amz-Credential=AK%2F2026%2fx&sig=a%2Bb%3D%3d&plus=a+b&tilde=%7E",
        "/a;v=1/@:!$&'()*+,=?q=/?:@!$'()*,;",
        "/a//b",
    ],
)
async def test_a_signed_link_is_sent_as_it_was_written(tmp_path: Path, server: HostileServer, target: str) -> None:
    server.replies["/begin"] = respond(status=302, location=target)
    async with opened(tmp_path) as library:
        for path in (target, "/begin"):
            await fail(MediaRefused, library.open(path[-1], "owner").get(picture(server.url(path))))
    assert [asked.target for asked in server.asked if asked.target != "/begin"] == [target, target]


async def test_all_who_ask_share_one_fetch(tmp_path: Path, server: HostileServer) -> None:
    gate = server.replies["/a"] = Gate(png())
    async with opened(tmp_path) as library:
        holds = [library.open("batch", "owner") for _ in range(3)]
        reference = picture(server.url("/a"))
        asking = [asyncio.create_task(hold.get(reference)) for hold in holds for _ in range(100)]
        await gate.reached.wait()
        gate.open.set()
        files = await asyncio.gather(*asking)
        assert len(set(files)) == 1
        assert await holds[0].get(reference) == files[0]
    assert len(server.asked) == 1


async def test_another_batch_fetches_for_itself(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = respond(png())
    async with opened(tmp_path) as library:
        reference = picture(server.url("/a"))
        one = await library.open("one", "owner").get(reference)
        other = await library.open("other", "somebody").get(reference)
        assert one.path != other.path
    assert len(server.asked) == 2


async def test_what_was_fetched_outlives_the_process(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = respond(wave(2.0))
    reference = clip(server.url("/a"))
    async with opened(tmp_path) as library:
        file = await library.open("batch", "owner").get(reference)
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        assert await media.get(reference) == file
        assert library.cache.size_bytes == file.size_bytes
    async with opened(tmp_path) as library:
        assert await library.sweep(["batch"]) == 0
        assert library.open("batch", "owner").find(reference) == file
    assert file.duration_ms == 2000
    assert len(server.asked) == 1


async def test_what_is_half_there_is_never_found(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = respond(png())
    reference = picture(server.url("/a"))
    async with opened(tmp_path) as library:
        file = await library.open("batch", "owner").get(reference)
    half = file.path.with_name("unnamed.0123abcd.partial")
    file.path.rename(half)
    async with opened(tmp_path) as library:
        await library.sweep(["batch"])
        assert library.open("batch", "owner").find(reference) is None
    assert list_files(tmp_path) == []


async def test_folders_of_batches_that_are_over_go(tmp_path: Path) -> None:
    reference = picture(data_url(png()))
    async with opened(tmp_path) as library:
        for batch in ("one", "two", "three"):
            await library.open(batch, "owner").get(reference)
        await library.remove("three")
        assert library.open("three", "owner").find(reference) is None
    async with opened(tmp_path) as library:
        assert await library.sweep(["two", "new"]) == 1
        assert library.open("one", "owner").find(reference) is None
        assert library.open("two", "owner").find(reference) is not None
        assert library.cache.size_bytes == len(png())
    assert [path.parent for path in list_files(tmp_path)] == [tmp_path / "two"]


async def test_passing_failures_are_tried_again(tmp_path: Path, server: HostileServer) -> None:
    answers = iter(
        [respond(status=503), respond(status=429, retry_after="0"), respond(png()[:40], content_length="90")]
    )

    async def reply(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await next(answers, respond(png()))(asked, writer)

    server.replies["/a"] = reply
    async with opened(tmp_path) as library:
        file = await library.open("batch", "owner").get(picture(server.url("/a")))
        assert library.cache.size_bytes == file.size_bytes
    assert len(server.asked) == 4
    assert list_files(tmp_path) == [file.path]


@pytest.mark.parametrize(
    ("asked_for", "waits_s"),
    [("0", 0.0), ("0.01", 0.01), ("3600", 0.02), ("Sun, 06 Nov 2194 08:49:37 GMT", 0.02), ("soon", 0)],
)
async def test_a_server_may_ask_to_be_left_alone_for_a_while(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch, asked_for: str, waits_s: float
) -> None:
    monkeypatch.setattr(media_library, "_RETRY_AFTER_MAX_S", 0.02)
    server.replies["/a"] = respond(status=429, retry_after=asked_for)
    with capture_logs() as logs:
        async with opened(tmp_path, tries=2) as library:
            await fail(MediaUnavailable, library.open("batch", "owner").get(picture(server.url("/a"))))
    assert [entry["again_in_s"] for entry in logs] == [waits_s]


async def test_what_fails_in_all_tries_is_unavailable(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = respond(status=500)
    async with opened(tmp_path, tries=3) as library:
        media = library.open("batch", "owner")
        reference = picture(server.url("/a?token=secret#secret"))
        caught = [await fail(MediaUnavailable, media.get(reference)) for _ in range(2)]
    message = f"http://127.0.0.1:{server.port}/a answers HTTP 500 (given up after 3 tries)."
    problem = BatchProblem("media_unavailable", message, param=reference.param)
    assert [one.problem for one in caught] == [problem, problem]
    assert len(server.asked) == 3


async def test_what_is_refused_is_asked_for_once(tmp_path: Path, server: HostileServer) -> None:
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        asking = (media.get(picture(server.url("/none?token=secret"))) for _ in range(3))
        caught = [await fail(MediaRefused, one) for one in asking]
    assert {one.message for one in caught} == {f"http://127.0.0.1:{server.port}/none answers HTTP 404."}
    assert len(server.asked) == 1


async def test_the_least_recently_used_goes_first(tmp_path: Path, server: HostileServer) -> None:
    sizes = [len(png(padding=1000)) for _ in range(4)]
    async with opened(tmp_path, cache_size_bytes=3 * sizes[0]) as library:
        media = library.open("batch", "owner")
        references = [picture(server.url(f"/{number}")) for number in range(4)]
        for number, reference in enumerate(references):
            server.replies[f"/{number}"] = respond(png(padding=1000))
            await media.get(reference)
            with media.holding([reference]):
                pass
            media.find(references[0])
        await library.cache.close()
        assert [media.find(one) is not None for one in references] == [True, False, True, True]
        assert library.cache.size_bytes == sum(path.stat().st_size for path in list_files(tmp_path)) == 3 * sizes[0]


async def test_what_is_held_or_awaited_never_goes(tmp_path: Path, server: HostileServer) -> None:
    async with opened(tmp_path, cache_size_bytes=1) as library:
        media, other = library.open("batch", "owner"), library.open("other", "owner")
        references = [picture(server.url(f"/{number}")) for number in range(3)]
        for number in range(3):
            server.replies[f"/{number}"] = respond(png(padding=number))
        await asyncio.gather(*(media.get(one) for one in references))
        await other.get(references[0])
        await library.cache.close()
        with media.holding(references[:2]) as files:
            assert files is not None
            await other.close()
            await library.cache.close()
            assert [file.path.read_bytes() for file in files] == [png(padding=0), png(padding=1)]
            assert other.find(references[0]) is None
        await library.cache.close()
        # Held once, so they may go; the third was never held.
        assert [media.find(one) is not None for one in references] == [False, False, True]
        with media.holding(references) as none:
            assert none is None
        await media.close()
        await library.cache.close()
        assert list_files(tmp_path) == []


async def test_the_last_to_go_ends_a_fetch(tmp_path: Path, server: HostileServer) -> None:
    gate = server.replies["/a"] = Gate(png())
    reference = picture(server.url("/a"))
    async with opened(tmp_path) as library:
        one, other = library.open("batch", "owner"), library.open("batch", "owner")
        first, second = asyncio.create_task(one.get(reference)), asyncio.create_task(other.get(reference))
        await gate.reached.wait()
        await one.close()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not second.done()
        second.cancel()
        await asyncio.wait([second])
        await other.close()
        gate.open.set()
        # A new one begins anew, and joins nothing that is ending.
        assert (await library.open("batch", "owner").get(reference)).size_bytes == len(png())
    assert len(server.asked) == 2
    assert len(list_files(tmp_path)) == 1


async def test_a_hold_that_is_closed_leaves_nothing_half(tmp_path: Path, server: HostileServer) -> None:
    body = png(padding=3_000_000)
    is_written = asyncio.Event()

    async def get_stuck(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1])
        await writer.drain()
        while not list_files(tmp_path):
            await asyncio.sleep(0.01)
        is_written.set()
        await asyncio.Event().wait()

    server.replies["/a"] = get_stuck
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        asking = asyncio.create_task(media.get(picture(server.url("/a"))))
        await is_written.wait()
        await media.close()
        assert list_files(tmp_path) == []
        assert library.cache.size_bytes == 0
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(asyncio.CancelledError):
            await media.get(picture(server.url("/a")))


async def test_who_goes_at_the_last_instant_leaves_nothing(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealing, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    seal_as = FileNamedLater.seal_as

    def seal_slowly(writer: FileNamedLater, name: str) -> Path:
        loop.call_soon_threadsafe(sealing.set)
        go_on.wait()
        return seal_as(writer, name)

    monkeypatch.setattr(FileNamedLater, "seal_as", seal_slowly)
    server.replies["/a"] = respond(png())
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        asking = asyncio.create_task(media.get(picture(server.url("/a"))))
        await sealing.wait()
        closing = asyncio.create_task(media.close())
        await asyncio.wait([asking])
        go_on.set()
        await closing
        assert list_files(tmp_path) == []
        assert library.cache.size_bytes == 0
        # Asked for again, it is there.
        assert (await library.open("batch", "owner").get(picture(server.url("/a")))).path.exists()


async def test_a_removed_batch_fetches_no_more(tmp_path: Path, server: HostileServer) -> None:
    gate = server.replies["/a"] = Gate(png())
    async with opened(tmp_path) as library:
        asking = asyncio.create_task(library.open("batch", "owner").get(picture(server.url("/a"))))
        await gate.reached.wait()
        await library.remove("batch")
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert library.cache.size_bytes == 0
    assert list_files(tmp_path) == []


async def test_uploaded_files_are_used_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(png())
    held = MediaFile(path=path, filename="p.png", media_type="image/png", size_bytes=path.stat().st_size, sha256="0")

    async def find_upload(file_id: str, owner: str) -> MediaFile | None:
        return held if (file_id, owner) == ("file-1", "owner") else None

    library = MediaLibrary(tmp_path / "media", configure(), find_upload)
    media = library.open("batch", "owner")
    assert media.find(picture("file-1")) is None
    assert await media.get(picture("file-1")) == held
    assert media.find(picture("file-1")) == held
    with media.holding([picture("file-1")]) as files:
        assert files == (held,)
    with pytest.raises(MediaRefused, match="is image/png, and no clip"):
        await media.get(clip("file-1"))
    with pytest.raises(MediaRefused, match="There is no file file-2"):
        await media.get(picture("file-2"))
    with pytest.raises(MediaRefused, match="There is no file file-1"):
        await library.open("batch", "somebody else").get(picture("file-1"))
    path.unlink()
    assert media.find(picture("file-1")) is None
    await library.close()


@pytest.mark.parametrize("point", ["blob.create", "blob.write", "blob.written", "blob.synced", "blob.sealed"])
@pytest.mark.parametrize("source", ["link", "data"])
async def test_a_failing_disk_fails_the_store_and_heals(
    tmp_path: Path, server: HostileServer, point: str, source: str
) -> None:
    server.replies["/a"] = respond(png())
    reference = picture(server.url("/a") if source == "link" else data_url(png()))
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        with failing(point) as failure, pytest.raises(StoreUnavailable, match="No space left"):
            await media.get(reference)
        assert failure.failed == 1
        assert media.find(reference) is None
        assert library.cache.size_bytes == 0
        assert list_files(tmp_path) == []
        assert (await media.get(reference)).path.read_bytes() == png()


async def test_a_full_disk_gets_back_what_nobody_uses(tmp_path: Path) -> None:
    async with opened(tmp_path) as library:
        old = library.open("old", "owner")
        await old.get(picture(data_url(png())))
        await old.close()
        with failing("blob.write"), pytest.raises(StoreUnavailable):
            await library.open("new", "owner").get(picture(data_url(png(5, 5))))
        await library.cache.close()
        assert list_files(tmp_path) == []


async def test_what_cannot_be_removed_goes_later(tmp_path: Path) -> None:
    async with opened(tmp_path, cache_size_bytes=1) as library:
        media = library.open("batch", "owner")
        await media.get(picture(data_url(png())))
        with failing("blob.remove") as failure:
            await media.close()
            await library.cache.close()
        assert failure.failed == 1
        assert media.find(picture(data_url(png()))) is None
        assert library.cache.size_bytes == len(png())
        other = library.open("other", "owner")
        await other.get(picture(data_url(png())))
        await other.close()
        await library.cache.close()
        assert library.cache.size_bytes == 0
        assert list_files(tmp_path) == []


@pytest.mark.parametrize("remove", [Path.unlink, lambda path: path.parent.rename(path.parent.with_name("gone"))])
async def test_what_somebody_else_removed_is_fetched_again(tmp_path: Path, remove: Callable[[Path], object]) -> None:
    reference = picture(data_url(png()))
    async with opened(tmp_path) as library:
        media = library.open("batch", "owner")
        file = await media.get(reference)
        remove(file.path)
        assert media.find(reference) is None
        assert (await media.get(reference)).path.exists()
        assert library.cache.size_bytes == len(png())
