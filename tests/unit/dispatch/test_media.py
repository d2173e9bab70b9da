"""Batches whose requests name pictures: what the engine sees, what is fetched and how often, and that all ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, State
from backfill.dispatch import media_ahead, waiting
from backfill.errors import StoreUnavailable
from backfill.media import library
from backfill.status import WaitReason
from backfill.turns import now_ms
from tests.support.media import data_url, list_files, png
from tests.support.media_servers import EngineWithEyes, PictureServer
from tests.support.rooms import OWNER, create_batch, open_house, read_results, seal, wait_for_batch, wait_until

IS_OPEN = {"media__allow": ["127.0.0.1/32"], "media__allow_http": True}


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


@asynccontextmanager
async def house(tmp_path: Path, engine: EngineWithEyes, **settings: Any) -> AsyncIterator[Rooms]:
    async with open_house(tmp_path, engine.url, **IS_OPEN | settings) as rooms:
        yield rooms


def seeing_line(number: int, *sources: str | dict[str, Any], text: str = "", **body: Any) -> bytes:
    """A request that asks about pictures, which it names so."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text or f"text {number}"}]
    for source in sources:
        named = source if isinstance(source, dict) else {"type": "image_url", "image_url": {"url": source}}
        parts.append(named)
    members = {"model": "m", "messages": [{"role": "user", "content": parts}]} | body
    return json.dumps({"custom_id": f"request-{number}", "body": members}).encode()


def text_line(number: int) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": f"text {number}"}]}
    return json.dumps({"custom_id": f"request-{number}", "body": body}).encode()


async def run(rooms: Rooms, lines: Iterable[bytes], **request: Any) -> Batch:
    return await wait_for_batch(rooms, (await create_batch(rooms, b"\n".join(lines), **request)).id)


def outputs(rooms: Rooms, batch: Batch) -> dict[str, Any]:
    found = (json.loads(line) for line in read_results(rooms, batch.output_file_id))
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in found}


def error_of(line: dict[str, Any]) -> dict[str, Any]:
    """The error object of a line of either form."""
    found: dict[str, Any] = (line.get("response") or {}).get("body", {}).get("error") or line["error"]
    return found


def failures(rooms: Rooms, batch: Batch) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in read_results(rooms, batch.error_file_id)]
    return {line["custom_id"]: error_of(line) for line in lines}


def fetched_folders(rooms: Rooms) -> list[str]:
    return [path.name for path in (rooms.config.data_dir / "media").iterdir()]


def sent_urls(engine: EngineWithEyes, text: str) -> list[str]:
    """What stands in the places of the pictures of the request with this text."""
    body = engine.bodies[engine.texts.index(text)]
    return [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]


async def test_text_and_pictures_of_every_origin_in_one_batch(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    async with house(tmp_path, engine) as rooms:
        uploaded = await seal(rooms.intake, png(9, 9), purpose="vision", filename="a.png")
        lines = [
            text_line(0),
            seeing_line(1, data_url(png(7, 7))),
            seeing_line(2, pictures.link(2)),
            seeing_line(3, {"type": "image_url", "image_url": {"file_id": uploaded.id}}),
            seeing_line(4, pictures.link(2), data_url(png(7, 7)), pictures.link(5), detail_level=1.50),
            text_line(5),
        ]
        batch = await run(rooms, lines)
        assert (batch.state, batch.counts.answered, batch.error_file_id) == (State.COMPLETED, 6, None)
        assert list(outputs(rooms, batch).values()) == ["0", "1", "1", "1", "3", "0"]
        assert sent_urls(engine, "text 2") == [data_url(pictures.picture(2))]
        assert sent_urls(engine, "text 3") == [data_url(png(9, 9))]
        assert sent_urls(engine, "text 4") == [
            data_url(pictures.picture(2)),
            data_url(png(7, 7)),
            data_url(pictures.picture(5)),
        ]
        # Where there is nothing to be fetched, not a byte is another.
        bodies = [json.loads(lines[number])["body"] for number in (0, 1, 5)]
        untouched = [raw for raw in engine.raw if json.loads(raw) in bodies]
        assert sorted(untouched) == sorted(
            line[line.index(b'"body": ') + 8 : -1] for line in (lines[0], lines[1], lines[5])
        )
        assert pictures.fetches == {"/2.png": 1, "/5.png": 1}
        assert not any(b"secret" in raw for raw in engine.raw)
        assert fetched_folders(rooms) == []


async def test_each_link_is_fetched_once_a_batch(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    async with house(tmp_path, engine) as rooms:
        batch = await run(rooms, [seeing_line(number, pictures.link(number % 20)) for number in range(200)])
        assert batch.counts.answered == 200
        assert set(pictures.fetches.values()) == {1}
        assert len(pictures.fetches) == 20


async def test_what_cannot_be_had_fails_alone_and_says_why(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    pictures.statuses = {"/1.png": 404, "/2.png": 503}
    async with house(tmp_path, engine, media__tries=3) as rooms:
        lines = [seeing_line(number, pictures.link(number)) for number in range(4)]
        lines += [seeing_line(4, "ftp://127.0.0.1/a.png"), seeing_line(5, "data:image/png;base64,"), text_line(6)]
        lines += [seeing_line(7, {"type": "image_url", "image_url": {"file_id": "file-none"}})]
        lines += [seeing_line(8, pictures.link(1)), seeing_line(9, pictures.link(2))]
        batch = await run(rooms, lines)
        failed = failures(rooms, batch)
        codes = {name: error["code"] for name, error in failed.items()}
        assert codes == {
            "request-1": "invalid_media",
            "request-2": "media_unavailable",
            "request-4": "invalid_media",
            "request-7": "invalid_media",
            "request-8": "invalid_media",
            "request-9": "media_unavailable",
        }
        assert f"{pictures.url}/1.png" in failed["request-1"]["message"]
        assert "404" in failed["request-1"]["message"]
        assert "3 tries" in failed["request-2"]["message"]
        assert "secret" not in json.dumps(failed)
        assert pictures.fetches == {"/0.png": 1, "/1.png": 1, "/2.png": 3, "/3.png": 1}
        assert sorted(engine.texts) == ["text 0", "text 3", "text 5", "text 6"]


async def test_nothing_waits_for_a_fetch_but_the_request_that_names_it(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_MS", 0)
    pictures.held = {"/0.png"}
    async with house(tmp_path, engine) as rooms:
        lines = [seeing_line(0, pictures.link(0)), *(seeing_line(n, pictures.link(n)) for n in range(1, 30))]
        lines += [text_line(number) for number in range(30, 60)]
        batch = await create_batch(rooms, b"\n".join(lines))
        await pictures.asked.wait()
        await wait_until(lambda: len(engine.bodies) == 59)
        await wait_until(lambda: rooms.dispatcher.find_wait(batch) is not None)
        found = rooms.dispatcher.find_wait(batch)
        assert found is not None
        assert (found.reason, found.message) == (WaitReason.MEDIA, "what 1 request names is being fetched")
        pictures.let_go.set()
        batch = await wait_for_batch(rooms, batch.id)
        assert batch.counts.answered == 60


@asynccontextmanager
async def silence(says: bytes) -> AsyncIterator[tuple[str, list[asyncio.Event]]]:
    """A server that takes whoever comes and says this and no more: its URL, and for each who came when he went."""
    gone: list[asyncio.Event] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(says)
        gone.append(asyncio.Event())
        event = gone[-1]
        with suppress(ConnectionError):
            await reader.read()
        event.set()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", gone


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + png(padding=2_000_000)
PATIENT = {f"media__{name}_timeout_s": 600 for name in ("connect", "read", "fetch")}


@pytest.mark.parametrize("says", [b"", HALF], ids=["nothing", "half a picture"])
@pytest.mark.parametrize("state", [State.EXPIRED, State.CANCELLED])
async def test_a_fetch_that_hangs_ends_with_its_batch(
    tmp_path: Path, engine: EngineWithEyes, state: State, says: bytes
) -> None:
    async with silence(says) as (url, gone), house(tmp_path, engine, **PATIENT) as rooms:
        lines = [seeing_line(number, f"{url}/{number}.png") for number in range(2)]
        batch = await create_batch(rooms, b"\n".join([*lines, text_line(2)]))
        await wait_until(lambda: len(gone) == 2 and len(engine.bodies) == 1)
        await wait_until(lambda: len(list_files(tmp_path / "media")) == (2 if says else 0))
        if state is State.EXPIRED:
            assert await rooms.metadata.change_batch(batch.id, values={"deadline_at_ms": now_ms() + 100})
        else:
            await rooms.turns.cancel(batch.id, OWNER)
        batch = await wait_for_batch(rooms, batch.id)
        assert (batch.state, batch.counts.answered) == (state, 1)
        # All lines are there, and the fetches are over.
        assert list(outputs(rooms, batch)) == ["request-2"]
        codes = {name: error["code"] for name, error in failures(rooms, batch).items()}
        assert codes == dict.fromkeys(("request-0", "request-1"), f"batch_{state.value}")
        for event in gone:
            await asyncio.wait_for(event.wait(), 10)
        await rooms.retention.remove_fetched()
        assert fetched_folders(rooms) == []
        assert len(gone) == 2


async def test_a_fetch_that_hangs_does_not_keep_a_server_from_stopping_and_is_made_again(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    pictures.held = {"/0.png"}
    async with house(tmp_path, engine) as rooms:
        lines = [seeing_line(0, pictures.link(0)), seeing_line(1, pictures.link(1))]
        batch = await create_batch(rooms, b"\n".join(lines))
        await pictures.asked.wait()
        await wait_until(lambda: len(engine.bodies) == 1)
    pictures.let_go.set()
    async with house(tmp_path, engine) as rooms:
        batch = await wait_for_batch(rooms, batch.id)
        assert batch.counts.answered == 2
    assert pictures.fetches == {"/0.png": 2, "/1.png": 1}
    assert sorted(engine.texts) == ["text 0", "text 1"]


async def test_identical_requests_cost_one_fetch_and_one_request(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    pictures.statuses = {"/1.png": 404, "/2.png": 500}
    async with house(tmp_path, engine, media__tries=2) as rooms:
        lines = [
            seeing_line(3 * copy + number, pictures.link(number), text=f"text {number}", temperature=0)
            for copy in range(5)
            for number in range(3)
        ]
        batch = await run(rooms, lines)
        assert (batch.counts.answered, batch.counts.failed, batch.counts.reused) == (5, 10, 8)
        assert engine.texts == ["text 0"]
        assert pictures.fetches == {"/0.png": 1, "/1.png": 1, "/2.png": 2}
        codes = [error["code"] for error in failures(rooms, batch).values()]
        assert codes == ["invalid_media", "media_unavailable"] * 5


async def test_a_request_that_is_tried_again_keeps_its_picture(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    engine.statuses = [500, 503, 500]
    async with house(tmp_path, engine) as rooms:
        batch = await run(rooms, [seeing_line(number, pictures.link(number)) for number in range(3)])
        assert batch.counts.answered == 3
        assert len(engine.bodies) == 6
        assert set(pictures.fetches.values()) == {1}


async def test_a_cache_that_holds_next_to_nothing_holds_nothing_up(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    engine.statuses = [500] * 10
    async with house(tmp_path, engine, media__cache_size_bytes=1) as rooms:
        batch = await run(rooms, [seeing_line(number, pictures.link(number % 5)) for number in range(40)])
        assert batch.counts.answered == 40


async def test_files_of_others_do_not_exist(tmp_path: Path, engine: EngineWithEyes) -> None:
    async with house(tmp_path, engine) as rooms:
        foreign = await seal(rooms.intake, png(), purpose="vision", owner="1" * 24)
        requests = await seal(rooms.intake, text_line(0))
        clip = await seal(rooms.intake, b"no picture at all", purpose="user_data")
        ids = [foreign.id, requests.id, clip.id, "file-none"]
        batch = await run(rooms, [seeing_line(n, {"type": "input_image", "file_id": i}) for n, i in enumerate(ids)])
        said = [error["message"] for error in failures(rooms, batch).values()]
        assert said[0] == f"There is no file {foreign.id}."
        assert "has the purpose batch-api" in said[1]
        assert "no known form" in said[2]
        assert said[3] == "There is no file file-none."
        assert engine.bodies == []


@pytest.mark.parametrize("links", ["pass", "refuse"])
async def test_links_by_setting(tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer, links: str) -> None:
    async with house(tmp_path, engine, media__links=links) as rooms:
        uploaded = await seal(rooms.intake, png(9, 9), purpose="vision")
        both = seeing_line(0, pictures.link(0), {"type": "image_url", "image_url": {"file_id": uploaded.id}})
        batch = await run(rooms, [both])
        assert not pictures.fetches
        if links == "pass":
            assert sent_urls(engine, "text 0") == [pictures.link(0), data_url(png(9, 9))]
        else:
            assert failures(rooms, batch)["request-0"]["code"] == "invalid_media"


async def test_a_picture_that_would_be_too_large_unpacked_reaches_no_engine(
    tmp_path: Path, engine: EngineWithEyes
) -> None:
    async with house(tmp_path, engine, media__picture_pixels=50) as rooms:
        sources = [
            data_url(png(5, 10)),
            data_url(png(3, 17)),
            "data:image/png;base64,what is this",
            data_url(b"<svg/>"),
        ]
        batch = await run(rooms, [seeing_line(number, source) for number, source in enumerate(sources)])
        failed = failures(rooms, batch)
        assert {name: error["code"] for name, error in failed.items()} == {"request-1": "invalid_media"}
        assert "3 x 17 pixels" in failed["request-1"]["message"]
        # What cannot be looked into here is for the engine to judge.
        assert sorted(engine.texts) == ["text 0", "text 2", "text 3"]


async def test_no_clip_is_fetched_for_a_request_that_no_engine_takes(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer
) -> None:
    async with house(tmp_path, engine) as rooms:
        body = {"model": "m", "file": f"{pictures.url}/1.png", "temperature": 5}
        lines = [{"custom_id": "hot", "body": body}, {"custom_id": "picture", "body": body | {"temperature": 0}}]
        data = [json.dumps(line | {"method": "FILE"}).encode() for line in lines]
        batch = await run(rooms, data, endpoint="/v1/audio/transcriptions")
        failed = failures(rooms, batch)
        assert "temperature" in failed["hot"]["message"]
        assert failed["picture"]["code"] == "invalid_media"
        assert pictures.fetches == {"/1.png": 1}


async def test_a_disk_that_takes_nothing_holds_the_batch_up_until_it_does(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, engine) as rooms:
        bring, failed = rooms.media.bring, 0

        async def fail_twice(*values: Any) -> Any:
            nonlocal failed
            failed += 1
            if failed <= 2:
                raise StoreUnavailable("There is no room on the disk.")
            return await bring(*values)

        monkeypatch.setattr(rooms.media, "bring", fail_twice)
        batch = await run(rooms, [seeing_line(0, pictures.link(0)), text_line(1)])
        assert (batch.counts.answered, batch.counts.failed) == (2, 0)
        assert sorted(engine.texts) == ["text 0", "text 1"]
        assert failed >= 3


async def test_a_server_that_does_not_answer_holds_up_no_other(
    tmp_path: Path, engine: EngineWithEyes, pictures: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_ahead, "_STALL_S", 0.01)
    async with PictureServer() as silent, house(tmp_path, engine) as rooms:
        silent.held = {f"/{number}.png" for number in range(60)}
        lines = [seeing_line(number, silent.link(number)) for number in range(60)]
        # Places are counted by the host's name.
        others = [pictures.link(number).replace("127.0.0.1", "localhost") for number in range(40)]
        lines += [seeing_line(60 + number, link) for number, link in enumerate(others)]
        batch = await create_batch(rooms, b"\n".join(lines))
        await wait_until(lambda: len(engine.bodies) == 40)
        silent.let_go.set()
        batch = await wait_for_batch(rooms, batch.id)
        assert batch.counts.answered == 100
