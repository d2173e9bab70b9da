"""Files whose time is over go, and so does what a crash left; nothing else does."""

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from backfill.app import open_rooms
from backfill.batch import File, FileStatus
from backfill.config import Config, LimitsConfig, load_config
from backfill.errors import NotFound, StoreUnavailable
from backfill.intake import Intake, PartUploads, Retention, UploadPlan, new_file_id, sweep_files
from backfill.store import Blobs, LocalBlobs, Metadata, content_key, file_prefix, part_key
from backfill.store.faults import failing
from backfill.turns import BatchRequest, Turns, now_ms
from tests.support.lines import request_lines
from tests.support.rooms import OWNER, seal, wait_until
from tests.support.rows import RowsPlace

PAST_MS = 1000


def holds(blobs: Blobs, quarantined: int) -> bool:
    return len(blobs.list_folders("quarantine")) == quarantined


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    opened = await Metadata.open(rows.make_driver())
    yield opened
    await opened.close()


@pytest.fixture
def intake(blobs: LocalBlobs, metadata: Metadata) -> Intake:
    return Intake(blobs, metadata, LimitsConfig())


@pytest.fixture
def retention(intake: Intake, metadata: Metadata) -> Retention:
    return Retention(intake, metadata, tick_s=0.01, grace_s=0)


async def add(intake: Intake, metadata: Metadata, expires_at_ms: int | None) -> File:
    file = msgspec.structs.replace(await seal(intake, request_lines(2)), expires_at_ms=expires_at_ms)
    await metadata.delete_file(file.id)
    await metadata.add_file(file)
    return file


async def test_a_file_is_gone_at_its_time_even_before_it_is_removed(intake: Intake, metadata: Metadata) -> None:
    file = await add(intake, metadata, PAST_MS)
    kept = await add(intake, metadata, now_ms() + 60_000)
    with pytest.raises(NotFound):
        await metadata.get_file(file.id, OWNER)
    assert [one.id for one in await metadata.list_files(OWNER, limit=10)] == [kept.id]


async def test_only_what_is_due_is_removed(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs
) -> None:
    due = await add(intake, metadata, PAST_MS)
    kept = [await add(intake, metadata, None), await add(intake, metadata, now_ms() + 60_000)]
    assert await retention.remove_expired() == 1
    assert blobs.list_folders("files") == sorted(file.id for file in kept)
    with pytest.raises(NotFound):
        await metadata.get_file(due.id)


async def test_the_grace_is_for_those_who_saw_the_file(intake: Intake, metadata: Metadata) -> None:
    file = await add(intake, metadata, now_ms() - 10_000)
    assert await Retention(intake, metadata, grace_s=60).remove_expired() == 0
    assert (await metadata.get_file(file.id)).id == file.id
    assert await Retention(intake, metadata, grace_s=5).remove_expired() == 1


async def test_a_file_that_a_batch_reads_stays_until_the_batch_has_ended(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs
) -> None:
    file = await add(intake, metadata, None)
    batch = await Turns(metadata, LimitsConfig()).create(BatchRequest(OWNER, "/v1/chat/completions", file.id))
    await metadata.delete_file(file.id)
    await metadata.add_file(msgspec.structs.replace(file, expires_at_ms=PAST_MS))
    assert await retention.remove_expired() == 0
    assert blobs.read(content_key(file.id)) == request_lines(2)
    await metadata.change_batch(batch.id, values={"state": "completed"})
    assert await retention.remove_expired() == 1


async def test_an_upload_that_nobody_finishes_goes_with_its_parts(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs
) -> None:
    uploads = PartUploads(intake, metadata)
    draft = msgspec.structs.replace(await add(intake, metadata, None), id=new_file_id(), status=FileStatus.RESERVED)
    started = await uploads.start(draft, UploadPlan(size_bytes=10, expires_at_ms=PAST_MS))
    writer = await uploads.receive(started, "1")
    await writer.feed(b"x")
    await writer.seal()
    assert draft.id in blobs.list_folders("files")
    assert await retention.remove_expired() == 1
    assert draft.id not in blobs.list_folders("files")


async def test_a_file_whose_bytes_are_coming_stays(intake: Intake, metadata: Metadata, retention: Retention) -> None:
    file = await add(intake, metadata, PAST_MS)
    upload = intake.begin(file.id)
    assert await retention.remove_expired() == 0
    upload.abort()
    assert await retention.remove_expired() == 1


async def test_the_loop_removes_and_stops(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs
) -> None:
    running = asyncio.create_task(retention.run())
    await add(intake, metadata, PAST_MS)
    await wait_until(lambda: blobs.list_folders("files") == [])
    retention.stop()
    await asyncio.wait_for(running, 5)


async def test_the_sweep_takes_what_no_row_names_and_nothing_else(
    intake: Intake, metadata: Metadata, blobs: LocalBlobs
) -> None:
    file = await add(intake, metadata, None)
    reserved = msgspec.structs.replace(file, id=new_file_id(), status=FileStatus.RESERVED)
    await PartUploads(intake, metadata).start(reserved, UploadPlan(size_bytes=10, expires_at_ms=now_ms() + 60_000))
    blobs.write(part_key(reserved.id, "1"), b"of an upload that goes on")
    blobs.write(part_key(file.id, "1"), b"left when the server died after the file was complete")
    orphan = new_file_id()
    blobs.write(content_key(orphan), b"sealed, but its row was never written")
    assert await sweep_files(blobs, metadata) == 2
    assert blobs.list_folders("files") == sorted([file.id, reserved.id])
    assert blobs.list_folders(file_prefix(file.id)) == []
    assert blobs.list_folders(file_prefix(reserved.id)) == ["parts"]
    assert blobs.read(content_key(file.id)) == request_lines(2)


def make_config(tmp_path: Path) -> Config:
    overrides = {"data_dir": str(tmp_path), "engines": {"null": {"url": "http://127.0.0.1:9"}}}
    return load_config(environment={}, overrides=overrides)


async def test_a_start_sweeps(tmp_path: Path) -> None:
    async with open_rooms(make_config(tmp_path)) as rooms:
        kept = await seal(rooms.intake, request_lines(2))
    orphan = new_file_id()
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.write(content_key(orphan), b"x")
    async with open_rooms(make_config(tmp_path)) as rooms:
        assert rooms.blobs.list_folders("files") == [kept.id]
        (name,) = blobs.list_folders("quarantine")
        assert name.endswith(f"-files-{orphan}")
        assert blobs.read(f"quarantine/{name}/content") == b"x"


async def test_the_quarantine_is_emptied_only_after_its_time(intake: Intake, metadata: Metadata) -> None:
    blobs = intake.blobs
    blobs.write(content_key(new_file_id()), b"x")
    await sweep_files(blobs, metadata)
    for quarantine_h, left in ((1.0, 1), (0.0, 0)):
        retention = Retention(intake, metadata, tick_s=0.01, quarantine_h=quarantine_h)
        running = asyncio.create_task(retention.run())
        if left:
            # A file that is due goes in the same round.
            await add(intake, metadata, PAST_MS)
        await wait_until(functools.partial(holds, blobs, left))
        retention.stop()
        await asyncio.wait_for(running, 5)
        assert len(blobs.list_folders("quarantine")) == left


async def test_what_cannot_be_removed_now_is_removed_later(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs
) -> None:
    file = await add(intake, metadata, None)
    with failing("blob.remove", times=2) as failure:
        # Without its row there is no file, so the client need not hear of it.
        await intake.remove(file.id)
        assert blobs.list_folders("files") == [file.id]
        with pytest.raises(StoreUnavailable):
            await retention.remove_left()
        await retention.remove_left()
        assert failure.failed == 2
    assert (blobs.list_folders("files"), intake.left) == ([], [])


@pytest.mark.parametrize(
    "point", ["blob.create", "blob.write", "blob.sealed", "metadata.begin", "metadata.before_commit"]
)
async def test_an_upload_that_failed_leaves_nothing(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs, point: str
) -> None:
    with failing(point), pytest.raises(StoreUnavailable):
        await seal(intake, request_lines(2))
    await retention.remove_left()
    assert blobs.list_folders("files") == []


async def test_an_upload_whose_row_was_written_after_all_keeps_its_bytes(
    intake: Intake, metadata: Metadata, retention: Retention, blobs: LocalBlobs
) -> None:
    # The first write looks for a reserved row.
    with failing("metadata.committed", first=2), pytest.raises(StoreUnavailable):
        await seal(intake, request_lines(2))
    await retention.remove_left()
    (file_id,) = await metadata.list_file_ids()
    assert blobs.read(content_key(file_id)) == request_lines(2)
    assert intake.left == []
