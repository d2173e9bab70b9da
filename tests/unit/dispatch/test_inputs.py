"""What a batch reads is what was uploaded, or the batch ends at once and says why."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from backfill.app import Rooms
from backfill.batch import Batch, State
from backfill.dispatch import turn_beginning
from backfill.store import LocalBlobs, content_key, index_key, journal_prefix, segment_key
from backfill.turns import BatchRequest
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, read_results, seal, wait_for_batch

LINES = 12
HANGING = range(8, LINES)

Damage = Callable[[Path], None]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as running:
        yield running


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def take_another(path: Path) -> None:
    """A sound index, of another file."""
    rooms_blobs = path.parent.parent
    other = next(folder for folder in rooms_blobs.iterdir() if folder != path.parent)
    path.write_bytes((other / path.name).read_bytes())


def blob_path(data_dir: Path, key: str) -> Path:
    return data_dir / "blobs" / key


def custom_ids(rooms: Rooms, file_id: str | None) -> list[str]:
    return [json.loads(line)["custom_id"] for line in read_results(rooms, file_id)]


def assert_answered_rightly(rooms: Rooms, batch: Batch, numbers: range) -> None:
    results = [json.loads(line) for line in read_results(rooms, batch.output_file_id)]
    assert [result["custom_id"] for result in results] == [f"request-{number}" for number in numbers]
    for number, result in zip(numbers, results, strict=True):
        content = result["response"]["body"]["choices"][0]["message"]["content"]
        assert content.startswith(f"marker-{marker_of(number)} ")


@pytest.mark.parametrize("damage", [remove, empty, cut_short, flip_a_bit, take_another])
async def test_an_index_is_made_again_from_the_content(engine: NullEngine, tmp_path: Path, damage: Damage) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        await seal(rooms.intake, request_lines(LINES + 1))
        file = await seal(rooms.intake, request_lines(LINES))
        before = rooms.blobs.read(index_key(file.id))
        damage(blob_path(tmp_path, index_key(file.id)))
        with capture_logs() as logs:
            created = await rooms.turns.create(BatchRequest(OWNER, "/v1/chat/completions", file.id))
            batch = await wait_for_batch(rooms, created.id)
        assert batch.state is State.COMPLETED
        assert_answered_rightly(rooms, batch, range(LINES))
        assert rooms.blobs.read(index_key(file.id)) == before
        assert [log["file"] for log in logs if "made again from the content" in log["event"]] == [file.id]


@pytest.mark.parametrize("after_a_restart", [False, True])
@pytest.mark.parametrize("damage", [remove, empty, cut_short, flip_a_bit, lengthen])
async def test_a_lost_content_ends_the_batch_at_once_with_the_reason(
    engine: NullEngine, tmp_path: Path, damage: Damage, after_a_restart: bool
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        file = await seal(rooms.intake, request_lines(LINES))
        if not after_a_restart:
            await fail(rooms, file.id, tmp_path, damage)
    if after_a_restart:
        async with open_house(tmp_path, engine.url) as rooms:
            await fail(rooms, file.id, tmp_path, damage)
    assert engine.markers() == []


async def fail(rooms: Rooms, file_id: str, data_dir: Path, damage: Damage) -> None:
    damage(blob_path(data_dir, content_key(file_id)))
    created = await rooms.turns.create(BatchRequest(OWNER, "/v1/chat/completions", file_id))
    batch = await wait_for_batch(rooms, created.id)
    assert batch.state is State.FAILED
    (problem,) = batch.problems
    assert (problem.code, problem.param) == ("input_lost", "input_file_id")
    assert f"The content of the input file {file_id} " in problem.message
    assert (batch.counts.answered, batch.counts.failed) == (0, LINES)
    assert batch.output_file_id is None
    errors = [json.loads(line) for line in read_results(rooms, batch.error_file_id)]
    assert [error["error"]["code"] for error in errors] == ["batch_failed"] * LINES


async def run_halfway(engine: NullEngine, data_dir: Path) -> Batch:
    """A batch with 8 lines answered, of a server that has stopped."""
    engine.behave(faults={marker_of(number): ["hang"] for number in HANGING})
    async with open_house(data_dir, engine.url, dispatch__cancel_grace_s=0.05) as rooms:
        batch = await create_batch(rooms, request_lines(LINES))
        while (await rooms.progress.count(batch)).done < LINES - len(HANGING):
            await asyncio.sleep(0.01)
            batch = await rooms.metadata.get_batch(batch.id)
    return batch


async def test_what_was_answered_is_delivered_when_the_rest_is_lost(engine: NullEngine, tmp_path: Path) -> None:
    batch = await run_halfway(engine, tmp_path)
    cut_short(blob_path(tmp_path, content_key(batch.input_file_id)))
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, batch.id)
        assert (batch.state, len(batch.problems)) == (State.FAILED, 1)
        assert_answered_rightly(rooms, batch, range(8))
        assert custom_ids(rooms, batch.error_file_id) == [f"request-{number}" for number in HANGING]
        assert (batch.counts.answered, batch.counts.failed) == (8, len(HANGING))


async def test_without_index_and_content_nothing_can_be_named(engine: NullEngine, tmp_path: Path) -> None:
    batch = await run_halfway(engine, tmp_path)
    for key in (content_key(batch.input_file_id), index_key(batch.input_file_id)):
        remove(blob_path(tmp_path, key))
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, batch.id)
        assert (batch.state, [problem.code for problem in batch.problems]) == (State.FAILED, ["input_lost"])
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        assert (batch.counts.answered, batch.counts.failed) == (0, LINES)


@pytest.mark.parametrize("state", [State.FINALIZING, State.CANCELLING, State.EXPIRING])
async def test_a_batch_that_cannot_be_gathered_ends(engine: NullEngine, tmp_path: Path, state: State) -> None:
    batch = await run_halfway(engine, tmp_path)
    for key in (content_key(batch.input_file_id), index_key(batch.input_file_id)):
        remove(blob_path(tmp_path, key))
    async with open_house(tmp_path, "http://127.0.0.1:9") as rooms:
        await wait_for_batch(rooms, batch.id)
        values: dict[str, Any] = {"state": state, "problems": (), "problem_count": 0}
        await rooms.metadata.change_batch(batch.id, values=values)
        batch = await wait_for_batch(rooms, batch.id)
        assert (batch.state, [problem.code for problem in batch.problems]) == (State.FAILED, ["input_lost"])


async def test_a_batch_that_is_gathered_needs_its_content_no_more(engine: NullEngine, tmp_path: Path) -> None:
    batch = await run_halfway(engine, tmp_path)
    remove(blob_path(tmp_path, content_key(batch.input_file_id)))
    async with open_house(tmp_path, engine.url) as rooms:
        await rooms.metadata.change_batch(batch.id, values={"state": State.CANCELLING})
        batch = await wait_for_batch(rooms, batch.id)
        assert (batch.state, batch.counts.answered) in ((State.CANCELLED, 8), (State.FAILED, 8))


async def test_a_content_that_is_cut_short_while_it_is_read_ends_the_batch(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(8)})
    async with open_house(tmp_path, engine.url, dispatch__request_timeout_s=1, dispatch__cancel_grace_s=0.05) as rooms:
        batch = await create_batch(rooms, request_lines(10_000))
        await engine.wait_for_async(lambda stats: stats["received"] >= 1)
        with blob_path(tmp_path, content_key(batch.input_file_id)).open("rb+") as content:
            content.truncate(500)
        batch = await wait_for_batch(rooms, batch.id)
        assert (batch.state, [problem.code for problem in batch.problems]) == (State.FAILED, ["input_lost"])


async def test_a_damaged_journal_is_done_again_and_that_is_logged_once(engine: NullEngine, tmp_path: Path) -> None:
    batch = await run_halfway(engine, tmp_path)
    key = LocalBlobs(tmp_path / "blobs").list(journal_prefix(batch.id))[0]
    flip_a_bit(blob_path(tmp_path, key))
    turn_beginning._report_damage.cache_clear()
    engine.behave(faults={})
    with capture_logs() as logs:
        async with open_house(tmp_path, engine.url) as rooms:
            ended = await wait_for_batch(rooms, batch.id)
            assert ended.state is State.COMPLETED
            assert_answered_rightly(rooms, ended, range(LINES))
            await rooms.metadata.change_batch(batch.id, values={"state": State.IN_PROGRESS})
            await wait_for_batch(rooms, batch.id, State.IN_PROGRESS)
    told = [log for log in logs if "no record" in log["event"]]
    assert [(log["segment"], log["size_bytes"] > 0) for log in told] == [(segment_key(batch.id, 1), True)]
