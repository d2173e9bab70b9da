"""What several segments have to write is bounded together, as it lies in one memory."""

import asyncio
from pathlib import Path

import pytest

from backfill.batch import Outcome, Usage
from backfill.errors import StoreUnavailable
from backfill.journal import Record, SegmentWriter, SyncGroup, begin_segment
from backfill.journal.writer import UNSYNCED_BYTES_LIMIT
from backfill.store import LocalBlobs
from backfill.store.append_file import AppendFile

BATCH_IDS = [f"0b5f7a3e-0000-4000-8000-00000000002{number}" for number in range(3)]
LARGE = Record(0, Outcome.ANSWERED, 200, 1, Usage(), 0, 0, b"x" * (UNSYNCED_BYTES_LIMIT // 2))


async def append_half(writer: SegmentWriter) -> None:
    """Append as much as half of what may wait."""
    writer.append(LARGE)
    await asyncio.sleep(0)


async def test_each_waits_for_the_bytes_of_all_and_those_that_are_given_up_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, syncs = LocalBlobs(tmp_path), SyncGroup()
    writers = [SegmentWriter(begin_segment(blobs, batch_id, 1), syncs) for batch_id in BATCH_IDS]

    def fail(_file: AppendFile) -> None:
        message = "no space left"
        raise StoreUnavailable(message)

    monkeypatch.setattr(AppendFile, "sync", fail)
    await append_half(writers[0])
    assert not writers[2].is_behind
    await append_half(writers[1])
    assert [writer.is_behind for writer in writers] == [True, True, True]
    waiting = asyncio.create_task(writers[2].wait_for_room())
    with pytest.raises(StoreUnavailable):
        await writers[0].sync()
    assert not waiting.done()
    # Half of it is left then, and that fits.
    await writers[0].close()
    await waiting
    assert not writers[2].is_behind
    await asyncio.gather(writers[1].close(), writers[2].close())
