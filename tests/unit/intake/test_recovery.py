"""A database that has lost rows stops the start, and costs no file."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backfill.app import open_rooms
from backfill.batch import File, FileStatus, State
from backfill.config import Config, load_config
from backfill.errors import InvalidInput, RowsLost, StoreBusy, StoreUnavailable
from backfill.intake import Recovery, new_file_id, recover
from backfill.store import (
    DATABASE,
    FolderLock,
    LocalBlobs,
    Metadata,
    SqliteDriver,
    content_key,
    facts_key,
    journal_prefix,
    pending_facts_key,
    read_facts,
    write_facts,
)
from backfill.turns import BatchRequest
from bench.null.process import NullEngine
from tests.support.lines import request_lines
from tests.support.rooms import OWNER, create_batch, open_house, read_results, seal, wait_for_batch

Loss = Callable[[Path], None]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def make_config(data_dir: Path) -> Config:
    overrides = {"data_dir": str(data_dir), "engines": {"null": {"url": "http://127.0.0.1:9"}}}
    return load_config(environment={}, overrides=overrides)


def copy_database(data_dir: Path) -> Path:
    """A backup as an operator may make one, of a server that has stopped."""
    backup = data_dir.parent / "backup"
    backup.mkdir()
    for path in data_dir.glob("backfill.db*"):
        shutil.copy2(path, backup)
    return backup


def remove_database(data_dir: Path) -> None:
    for path in data_dir.glob("backfill.db*"):
        path.unlink()


def empty_database(data_dir: Path) -> None:
    (data_dir / "backfill.db").write_bytes(b"")


def overwrite_database(data_dir: Path) -> None:
    (data_dir / "backfill.db").write_bytes(b"something else altogether")


def restore_database(data_dir: Path) -> None:
    remove_database(data_dir)
    for path in (data_dir.parent / "backup").iterdir():
        shutil.copy2(path, data_dir)


def list_blobs(data_dir: Path) -> dict[str, bytes]:
    root = data_dir / "blobs"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def assert_refused(data_dir: Path) -> None:
    before = list_blobs(data_dir)
    for _ in range(2):
        with pytest.raises(RowsLost, match="backfill recover --data-dir"):
            async with open_rooms(make_config(data_dir)):
                pass
    assert list_blobs(data_dir) == before


@pytest.mark.parametrize("lose", [remove_database, empty_database, overwrite_database, restore_database])
async def test_a_lost_database_costs_no_file(engine: NullEngine, tmp_path: Path, lose: Loss) -> None:
    data_dir = tmp_path / "data"
    async with open_house(data_dir, engine.url) as rooms:
        old = await seal(rooms.intake, request_lines(2))
    copy_database(data_dir)
    async with open_house(data_dir, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_lines(3))).id)
        assert ended.output_file_id
        output = read_results(rooms, ended.output_file_id)
        files = {file.id: file for file in await rooms.metadata.list_files(OWNER, limit=10)}
    lose(data_dir)
    await assert_refused(data_dir)
    expected = set(files) - ({old.id} if lose is restore_database else set())
    before = list_blobs(data_dir)
    found = await recover(data_dir, SqliteDriver(data_dir / DATABASE), is_trial=True)
    assert {file.id for file in found.adopted} == expected
    assert list_blobs(data_dir) == before
    await assert_refused(data_dir)
    assert await recover(data_dir, SqliteDriver(data_dir / DATABASE), is_trial=False) == found
    assert (found.damaged, found.repeated, found.journals) == ({}, [], [ended.id])
    async with open_house(data_dir, engine.url) as rooms:
        assert {file.id: file for file in await rooms.metadata.list_files(OWNER, limit=10)} == files
        assert read_results(rooms, ended.output_file_id) == output
        created = await rooms.turns.create(BatchRequest(OWNER, "/v1/chat/completions", ended.input_file_id))
        again = await wait_for_batch(rooms, created.id)
        assert (again.state, again.counts.answered) == (State.COMPLETED, 3)
    assert await recover(data_dir, SqliteDriver(data_dir / DATABASE), is_trial=False) == Recovery([], [], {}, [])
    # The journal that no row names is put aside, for good.
    assert [name for name in LocalBlobs(data_dir / "blobs").list_folders("unrecovered") if ended.id in name]


async def test_results_of_a_batch_that_has_not_ended_in_the_older_database_are_made_again(
    engine: NullEngine, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    async with open_rooms(make_config(data_dir)) as rooms:
        batch = await create_batch(rooms, request_lines(3))
    copy_database(data_dir)
    async with open_house(data_dir, engine.url) as rooms:
        ended = await wait_for_batch(rooms, batch.id)
        output = read_results(rooms, ended.output_file_id)
    restore_database(data_dir)
    await assert_refused(data_dir)
    recovery = await recover(data_dir, SqliteDriver(data_dir / DATABASE), is_trial=False)
    assert [file.id for file in recovery.repeated] == [ended.output_file_id]
    assert (recovery.adopted, recovery.damaged, recovery.journals) == ([], {}, [])
    async with open_house(data_dir, engine.url) as rooms:
        again = await wait_for_batch(rooms, batch.id)
        assert (again.state, again.output_file_id) == (State.COMPLETED, ended.output_file_id)
        assert read_results(rooms, again.output_file_id) == output


async def test_what_cannot_be_had_again_is_put_aside_and_named(tmp_path: Path) -> None:
    async with open_rooms(make_config(tmp_path)) as rooms:
        files = [await seal(rooms.intake, request_lines(2)) for _ in range(4)]
    good, cut, other, unreadable = files
    folder = tmp_path / "blobs" / "files"
    (folder / cut.id / "content").write_bytes(b"x")
    (folder / other.id / "content").write_bytes(request_lines(2).replace(b"hello", b"hallo"))
    (folder / unreadable.id / "facts").write_bytes(b"{")
    remove_database(tmp_path)
    recovery = await recover(tmp_path, SqliteDriver(tmp_path / DATABASE), is_trial=False)
    assert [file.id for file in recovery.adopted] == [good.id]
    assert set(recovery.damaged) == {cut.id, other.id, unreadable.id}
    async with open_rooms(make_config(tmp_path)) as rooms:
        assert rooms.blobs.list_folders("files") == [good.id]
        assert len(rooms.blobs.list_folders("unrecovered")) == 3
        assert rooms.blobs.list_folders("quarantine") == []


async def test_a_clip_is_taken_in_again_whatever_it_is_called(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path / "data", engine.url) as rooms:
        batch = await create_batch(rooms, request_lines(1), model_id="m")
        await wait_for_batch(rooms, batch.id)
        clip = await seal(rooms.intake, b"RIFF", purpose="user_data", filename=f"{batch.id}_clip.wav")
    remove_database(tmp_path / "data")
    recovery = await recover(tmp_path / "data", SqliteDriver(tmp_path / "data" / DATABASE), is_trial=False)
    assert clip.id in {file.id for file in recovery.adopted}
    async with open_rooms(make_config(tmp_path / "data")) as rooms:
        assert await rooms.metadata.get_file(clip.id) == clip


async def test_a_crash_is_no_loss(tmp_path: Path) -> None:
    """Killed before the row, or between the row and its confirmation, or while a file was removed."""
    async with open_rooms(make_config(tmp_path)) as rooms:
        unconfirmed, withdrawn = [await seal(rooms.intake, request_lines(2)) for _ in range(2)]
        blobs = rooms.blobs
        blobs.rename(facts_key(unconfirmed.id), pending_facts_key(unconfirmed.id))
        blobs.delete(facts_key(withdrawn.id))
        half = File(
            id=new_file_id(), owner=OWNER, filename="a", purpose="batch-api", status=FileStatus.SEALED, created_at_ms=1
        )
        write_facts(blobs, half)
        blobs.write(content_key(half.id), b"x")
    async with open_rooms(make_config(tmp_path)) as rooms:
        assert blobs.list_folders("files") == sorted([unconfirmed.id, withdrawn.id])
        assert [name.endswith(half.id) for name in blobs.list_folders("quarantine")] == [True]
        for file in (unconfirmed, withdrawn):
            assert blobs.exists(facts_key(file.id))
            assert read_facts(blobs, file.id) == file


async def test_a_removed_file_does_not_come_back(tmp_path: Path) -> None:
    async with open_rooms(make_config(tmp_path)) as rooms:
        file = await seal(rooms.intake, request_lines(2))
        await rooms.intake.remove(file.id)
    async with open_rooms(make_config(tmp_path)) as rooms:
        assert rooms.blobs.list_folders("files") == rooms.blobs.list_folders("quarantine") == []


async def test_a_journal_without_its_batch_stops_the_start_too(tmp_path: Path) -> None:
    async with open_rooms(make_config(tmp_path)) as rooms:
        rooms.blobs.write(f"{journal_prefix('a-batch')}/0000000001.segment", b"x")
    await assert_refused(tmp_path)


async def test_recovery_needs_the_data_directory_for_itself(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no data directory"):
        await recover(tmp_path / "none", SqliteDriver(tmp_path / "none" / DATABASE), is_trial=True)
    assert not (tmp_path / "none").exists()
    lock = FolderLock(tmp_path)
    with pytest.raises(StoreBusy):
        await recover(tmp_path, SqliteDriver(tmp_path / DATABASE), is_trial=True)
    lock.release()


async def test_a_damaged_database_is_not_taken_for_a_lost_one(tmp_path: Path) -> None:
    async with open_rooms(make_config(tmp_path)) as rooms:
        await seal(rooms.intake, request_lines(2))
    data = bytearray((tmp_path / "backfill.db").read_bytes())
    data[100:] = b"\xff" * (len(data) - 100)
    (tmp_path / "backfill.db").write_bytes(data)
    with pytest.raises(StoreUnavailable):
        await Metadata.open(tmp_path / "backfill.db")
