"""Blobs are whole or not there; appended bytes are kept; one process holds a folder."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backfill.errors import NotFound, StoreBusy, StoreUnavailable
from backfill.store import FolderLock, LocalBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def test_a_blob_is_not_there_before_it_is_sealed(blobs: LocalBlobs) -> None:
    with blobs.create("files/a/content") as writer:
        writer.write(b"one")
        assert blobs.list("files/a") == []
        with pytest.raises(NotFound):
            blobs.open("files/a/content")
        writer.seal()
    assert blobs.read("files/a/content") == b"one"
    assert blobs.list("files/a") == ["files/a/content"]


def test_an_aborted_blob_leaves_nothing(blobs: LocalBlobs, tmp_path: Path) -> None:
    with blobs.create("files/a/content") as writer:
        writer.write(b"one")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_writers_of_one_key_do_not_mix(blobs: LocalBlobs) -> None:
    with blobs.create("k") as first, blobs.create("k") as second:
        first.write(b"first")
        second.write(b"second")
        first.seal()
        second.seal()
    assert blobs.read("k") == b"second"


def test_sweeping_removes_what_dead_writers_left(blobs: LocalBlobs) -> None:
    blobs.write("files/a/content", b"whole")
    dead = blobs.create("files/a/index")
    dead.write(b"half")
    assert blobs.sweep() == 1
    dead.abort()
    assert blobs.read("files/a/content") == b"whole"


def test_reads_at_any_place(blobs: LocalBlobs) -> None:
    blobs.write("k", bytes(range(100)))
    with blobs.open("k") as reader:
        assert reader.read(10, 5) == bytes(range(10, 15))
        assert reader.read(98, 10) == bytes([98, 99])
        assert reader.size_bytes == 100
        # Forward, back, past the end: the same bytes, whatever was read ahead.
        for offset, length in ((0, 10), (10, 5), (90, 20), (3, 4), (99, 1), (50, 0)):
            assert reader.read_on(offset, length) == bytes(range(100))[offset : offset + length]
    assert b"".join(blobs.read_chunks("k", 20, 50, chunk_bytes=7)) == bytes(range(20, 70))


def test_an_append_file_is_made_once(blobs: LocalBlobs) -> None:
    file = blobs.append_to("journals/b/1.segment", b"ab")
    file.write(b"cd")
    file.sync()
    file.close()
    assert blobs.read("journals/b/1.segment") == b"abcd"
    with pytest.raises(StoreUnavailable):
        blobs.append_to("journals/b/1.segment", b"ab")


@pytest.mark.parametrize("call", ["write", "fsync", "fdatasync"])
def test_a_full_disk_is_an_error_with_a_reason(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = blobs.append_to("segment", b"")
    writer = blobs.create("blob")
    monkeypatch.setattr(os, call, fail)
    use = {"write": lambda: file.write(b"x"), "fsync": writer.seal, "fdatasync": file.sync}
    with pytest.raises(StoreUnavailable, match="No space left"):
        use[call]()
    monkeypatch.undo()
    writer.abort()
    file.close()


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "data")
    with pytest.raises(StoreBusy, match="Another Backfill process"):
        FolderLock(tmp_path / "data")
    lock.release()
    FolderLock(tmp_path / "data").release()


def test_the_last_blob_of_a_folder_takes_its_empty_folder_along(blobs: LocalBlobs) -> None:
    for key in ("files/a/content", "files/a/index", "files/b/parts/1"):
        blobs.write(key, b"x")
    blobs.delete("files/a/content")
    assert blobs.list_folders("files") == ["a", "b"]
    blobs.delete("files/a/index")
    blobs.delete("files/a/index")
    assert blobs.list_folders("files") == ["b"]
    blobs.delete_folder("files/b")
    blobs.delete_folder("files/b")
    assert blobs.list_folders("files") == []


def test_a_folder_that_two_remove_at_once_is_gone_for_both(blobs: LocalBlobs, tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / "files" / "a"
    folder.mkdir(parents=True)
    for number in range(1000):
        (folder / str(number)).touch()

    def remove() -> bool:
        blobs.delete_folder("files/a")
        return folder.exists()

    with ThreadPoolExecutor(4) as threads:
        removed = [threads.submit(remove) for _ in range(4)]
        assert not any(task.result() for task in removed)
