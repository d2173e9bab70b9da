"""A batch that does not move says why, and one that moves or has ended says nothing."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, State
from backfill.dispatch import dispatcher, waiting
from backfill.dispatch.open_turn import OpenTurn
from backfill.errors import StoreUnavailable
from backfill.status import Waiting, WaitReason
from backfill.store import AppendFile
from backfill.store.faults import failing
from backfill.turns import Turn, setbacks
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line, request_lines
from tests.support.rooms import create_batch, open_house, wait_for_batch, wait_until


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_MS", 0)
    monkeypatch.setattr(setbacks, "_PAUSE_S", 0.01)
    monkeypatch.setattr(setbacks, "_PAUSE_MAX_S", 0.01)


async def wait_for_reason(rooms: Rooms, batch: Batch, reason: WaitReason, message: str | None = None) -> Waiting:
    """Without `message`, whatever is said of the reason first: before a batch has its turn that is something else."""
    async with asyncio.timeout(30):
        while True:
            found = rooms.dispatcher.find_wait(await rooms.metadata.get_batch(batch.id))
            if found is not None and found.reason is reason and message in (None, found.message):
                return found
            await asyncio.sleep(0.01)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def see_it_end(rooms: Rooms, batch: Batch) -> None:
    ended = await wait_for_batch(rooms, batch.id)
    assert ended.state is State.COMPLETED
    assert rooms.dispatcher.find_wait(ended) is None


async def test_an_engine_that_is_down(engine: NullEngine, tmp_path: Path) -> None:
    port = engine.port
    engine.kill()
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await create_batch(rooms, request_lines(3))
        first = await wait_for_reason(rooms, batch, WaitReason.ENGINE)
        assert "engine null: " in first.message
        again = await wait_for_reason(rooms, batch, WaitReason.ENGINE)
        assert again.since_ms == first.since_ms
        with NullEngine(port=port):
            await see_it_end(rooms, batch)


async def test_an_engine_that_refuses_the_key(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["401"] * 9999 for number in range(3)})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await create_batch(rooms, request_lines(3))
        found = await wait_for_reason(rooms, batch, WaitReason.ENGINE)
        assert "refuses the configured key (HTTP 401)" in found.message
        engine.behave(faults={})
        await see_it_end(rooms, batch)


async def test_a_rate_limit_without_end(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["429:0.05"] * 9999 for number in range(3)})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await create_batch(rooms, request_lines(3))
        found = await wait_for_reason(rooms, batch, WaitReason.RATE_LIMIT)
        assert "429" in found.message
        engine.behave(faults={})
        await see_it_end(rooms, batch)


async def test_memory_that_another_engine_has(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    engines = {name: {"url": engine.url, "models": [name], "exclusive": "gpu"} for name in ("m", "n")}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        first = await create_batch(rooms, request_line(1, model="m"))
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 1)
        second = await create_batch(rooms, request_line(2, model="n"))
        found = await wait_for_reason(rooms, second, WaitReason.MEMORY)
        assert found.message == "engine n waits for the memory that engine m has"
        assert rooms.dispatcher.find_wait(await rooms.metadata.get_batch(first.id)) is None
        engine.behave(hold=False)
        await see_it_end(rooms, second)


async def test_live_requests_that_leave_no_room(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        presence = rooms.fleet.presences["null"]

        async def arrive() -> None:
            while True:
                visits.callback(presence.enter(100, is_stream=True).leave)
                await asyncio.sleep(0.02)

        visits = ExitStack()
        arriving = asyncio.create_task(arrive())
        batch = await create_batch(rooms, request_lines(2))
        found = await wait_for_reason(rooms, batch, WaitReason.LIVE_TRAFFIC)
        assert found.message == "engine null answers live requests, which go first"
        arriving.cancel()
        visits.close()
        await see_it_end(rooms, batch)


async def test_batches_that_are_due_earlier(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    engines = {"null": {"url": engine.url, "concurrency": 1}}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        first = await create_batch(rooms, request_lines(2), completion_window="1h")
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 1)
        later = await create_batch(rooms, request_line(9), completion_window="2h")
        told = "1 other batch is worked on first, 1 of them of the same owner"
        await wait_for_reason(rooms, later, WaitReason.OTHER_BATCHES, told)
        assert rooms.dispatcher.find_wait(await rooms.metadata.get_batch(first.id)) is None
        engine.behave(hold=False)
        await see_it_end(rooms, later)


async def test_as_many_batches_as_are_worked_on_at_once(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_OPEN_TURNS", 1)
    engine.behave(hold=True)
    async with open_house(tmp_path, engine.url) as rooms:
        await create_batch(rooms, request_lines(2), completion_window="1h")
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 2)
        later = await create_batch(rooms, request_line(9), completion_window="2h")
        told = "1 other batch is worked on, 1 of them of the same owner; it is begun when one has ended"
        found = await wait_for_reason(rooms, later, WaitReason.OTHER_BATCHES, told)
        assert found.since_ms >= later.created_at_ms
        engine.behave(hold=False)
        await see_it_end(rooms, later)


@pytest.mark.parametrize("point", ["segment.create", "segment.write", "blob.write", "metadata.before_commit"])
async def test_a_disk_that_is_full(engine: NullEngine, tmp_path: Path, point: str) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await create_batch(rooms, request_lines(3))
        with failing(point, times=1 << 30):
            found = await wait_for_reason(rooms, batch, WaitReason.STORE)
            assert "(no space left on device)" in found.message
            assert str(tmp_path) not in found.message
        await see_it_end(rooms, batch)


async def test_a_batch_that_has_ended_waits_for_nothing(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(1))).id)
        rooms.turns.setbacks.note(ended.id, StoreUnavailable("Cannot write."), "batch cannot be delivered yet")
        assert rooms.dispatcher.find_wait(ended) is None


async def test_a_fault_of_our_own_stops_one_batch_and_no_other(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        with monkeypatch.context() as patch:
            bad = await create_batch(rooms, request_line(1, custom_id="bad"))

            def fail_for_one(opened: OpenTurn, line: int) -> bytes:
                if opened.turn.batch.id == bad.id:
                    raise ZeroDivisionError
                return read_body(opened, line)

            read_body = OpenTurn.read_body
            patch.setattr(OpenTurn, "read_body", fail_for_one)
            found = await wait_for_reason(rooms, bad, WaitReason.INTERNAL)
            assert "log" in found.message
            await see_it_end(rooms, await create_batch(rooms, request_line(2)))
        await see_it_end(rooms, bad)


async def test_a_full_disk_leaves_no_heap_of_segments_and_descriptors(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    write = AppendFile.write

    def fail_behind_the_header(file: AppendFile, data: bytes) -> None:
        nonlocal failures
        if file.size_bytes:
            failures += 1
            message = "There is no room."
            raise StoreUnavailable(message)
        write(file, data)

    async with open_house(tmp_path, engine.url) as rooms:
        with monkeypatch.context() as patch:
            patch.setattr(AppendFile, "write", fail_behind_the_header)
            batch = await create_batch(rooms, request_lines(3))
            await wait_until(lambda: failures >= 5)
            before = count_descriptors()
            await wait_until(lambda: failures >= 30)
            assert len(list((tmp_path / "blobs").glob(f"journals/{batch.id}/*"))) <= 1
            assert count_descriptors() <= before + 5
        await see_it_end(rooms, batch)


async def test_a_turn_that_could_not_be_given_back_is_given_back_later(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        failures = iter(range(4))
        give_back = rooms.turns.give_back

        async def fail_first(turn: Turn, *, drained: bool, is_fenced: bool) -> None:
            if next(failures, None) is not None:
                message = "The metadata database cannot be written: it is full."
                raise StoreUnavailable(message)
            await give_back(turn, drained=drained, is_fenced=is_fenced)

        monkeypatch.setattr(rooms.turns, "give_back", fail_first)
        batch = await create_batch(rooms, request_lines(3))
        await see_it_end(rooms, batch)
        assert next(failures, None) is None
        assert {marker: count for marker, count in Counter(engine.markers("received")).items() if count > 1} == {}
