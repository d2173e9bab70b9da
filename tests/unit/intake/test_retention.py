"""Files whose time is over go, and so does what a crash left; nothing else does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from backfill.app import open_rooms
from backfill.batch import File, FileStatus
from backfill.config import Config, LimitsConfig, load_config
from backfill.errors import NotFound
from backfill.intake import Intake, PartUploads, Retention, UploadPlan, new_file_id, sweep_files
from backfill.store import LocalBlobs, Metadata, content_key, file_prefix, part_key
from backfill.turns import BatchRequest, Turns, now_ms
from tests.support.lines import request_lines
from tests.support.rooms import OWNER, seal, wait_until

PAST_MS = 1000


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
async def metadata(tmp_path: Path) -> AsyncIterator[Metadata]:
    opened = await Metadata.open(tmp_path / "backfill.db")
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
    orphan = content_key(new_file_id())
    LocalBlobs(tmp_path / "blobs").write(orphan, b"x")
    async with open_rooms(make_config(tmp_path)) as rooms:
        assert rooms.blobs.list_folders("files") == []
