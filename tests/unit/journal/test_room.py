"""How much may wait for the disk: one bound for all turns of a process, whatever becomes of each."""

import asyncio
import threading
from pathlib import Path

import pytest

from backfill.batch import Outcome, Usage
from backfill.errors import StoreUnavailable
from backfill.journal import Record, SegmentWriter, SyncGroup, begin_segment
from backfill.store import AppendFile, LocalBlobs

BATCHES = [f"0b5f7a3e-0000-4000-8000-00000000001{number}" for number in range(3)]
LIMIT_BYTES = 1000
# Two of them are more than may wait.
BODY = b'{"a":"%s"}' % (b"x" * 600)


class SlowDisk:
    """Holds no byte until it is let go on, and fails for the files that are named."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let_go = threading.Event()
        self.broken: set[object] = set()
        sync = AppendFile.sync

        def wait(file: AppendFile) -> None:
            assert self.let_go.wait(30)
            if file in self.broken:
                message = "no space left"
                raise StoreUnavailable(message)
            sync(file)

        monkeypatch.setattr(AppendFile, "sync", wait)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    monkeypatch.setattr("backfill.journal.writer.UNSYNCED_BYTES_LIMIT", LIMIT_BYTES)
    return SlowDisk(monkeypatch)


async def write_one_each(folder: Path) -> tuple[SyncGroup, list[SegmentWriter]]:
    """Segments of several turns, each with a record that the disk does not hold yet."""
    blobs, syncs = LocalBlobs(folder), SyncGroup()
    writers = [SegmentWriter(begin_segment(blobs, batch_id, 1), syncs) for batch_id in BATCHES]
    for writer in writers:
        assert not writer.is_behind
        writer.append(Record(0, Outcome.ANSWERED, 200, 1, Usage(), 0, 0, BODY))
    while syncs.unsynced_bytes < len(BATCHES) * len(BODY):
        await asyncio.sleep(0)
    return syncs, writers


async def test_several_turns_that_wait_for_the_disk_wait_together(disk: SlowDisk, tmp_path: Path) -> None:
    syncs, writers = await write_one_each(tmp_path)
    assert all(writer.is_behind for writer in writers)
    waiting = [asyncio.create_task(writer.wait_for_room()) for writer in writers]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    disk.let_go.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
    assert syncs.unsynced_bytes <= LIMIT_BYTES
    for writer in writers:
        await writer.close()
    assert syncs.unsynced_bytes == 0


async def test_a_turn_whose_disk_fails_holds_up_no_other(disk: SlowDisk, tmp_path: Path) -> None:
    syncs, writers = await write_one_each(tmp_path)
    *broken, sound = writers
    disk.broken = {writer._file for writer in broken}
    waiting = [asyncio.create_task(writer.wait_for_room()) for writer in writers]
    disk.let_go.set()
    async with asyncio.timeout(30):
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(failure) for failure in failures] == [StoreUnavailable, StoreUnavailable, type(None)]
        for writer in broken:
            await writer.close()
        await sound.close()
    assert syncs.unsynced_bytes == 0
    assert not sound.is_behind
