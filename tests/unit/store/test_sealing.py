"""Many blobs sealed together: all of them durable, each folder synced once, and a failure of one is not passed over."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from backfill.errors import StoreUnavailable
from backfill.store import LocalBlobs, seal_together, sync_each
from backfill.store.faults import failing

FILES = 12


def write_pairs(blobs: LocalBlobs) -> list[str]:
    keys = [f"files/{number}/{name}" for number in range(FILES) for name in ("facts", "content")]
    with ExitStack() as stack:
        writers = [stack.enter_context(blobs.create(key)) for key in keys]
        for writer, key in zip(writers, keys, strict=True):
            writer.write(key.encode())
        seal_together(writers)
    return keys


def test_blobs_that_are_sealed_together_are_all_there(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    keys = write_pairs(blobs)
    assert [blobs.read(key) for key in keys] == [key.encode() for key in keys]
    assert blobs.sweep() == 0


def test_the_disk_is_asked_for_each_blob_and_for_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        asked.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    keys = write_pairs(LocalBlobs(tmp_path))
    folders = [path for path in asked if path.is_dir()]
    assert sorted(folders) == sorted({(tmp_path / key).parent for key in keys})
    assert len(asked) - len(folders) == len(keys)


@pytest.mark.parametrize("point", ["blob.written", "blob.synced", "blob.sealed"])
def test_what_fails_for_one_blob_is_told_and_a_second_time_seals_them_all(tmp_path: Path, point: str) -> None:
    blobs = LocalBlobs(tmp_path)
    with failing(point, first=FILES), pytest.raises(StoreUnavailable):
        write_pairs(blobs)
    keys = write_pairs(blobs)
    assert [blobs.read(key) for key in keys] == [key.encode() for key in keys]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_what_is_synced_side_by_side_comes_back_in_its_order(count: int) -> None:
    assert sync_each(lambda item: item * item, range(count)) == [item * item for item in range(count)]
