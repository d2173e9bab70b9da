"""One suite for every place where bytes may lie: the local disk and an object store behave alike to every room."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backfill.batch import File, FileStatus
from backfill.errors import NotFound, StoreUnavailable
from backfill.store import Blobs, confirm_facts, read_facts, withdraw_facts, write_facts
from tests.support.stores import Store

LARGE = 20 << 20
"""More than an upload sends in one call."""


@pytest.fixture
def blobs(store: Store) -> Iterator[Blobs]:
    with store.opened() as blobs:
        yield blobs


def make_bytes(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


def find_filled(blobs: Blobs, prefix: str) -> list[str]:
    return [name for name in blobs.list_folders(prefix) if blobs.measure(f"{prefix}/{name}")]


def test_a_blob_is_not_there_before_it_is_sealed(blobs: Blobs) -> None:
    with blobs.create("files/a/content") as writer:
        writer.write(b"one")
        assert blobs.list("files/a") == []
        assert not blobs.exists("files/a/content")
        for ask in (blobs.open, blobs.read, blobs.look_at, blobs.fetch):
            if ask != blobs.fetch or not blobs.is_near:
                with pytest.raises(NotFound):
                    ask("files/a/content")
        writer.write(b"two")
        assert writer.size_bytes == 6
        writer.seal()
    assert blobs.read("files/a/content") == b"onetwo"
    assert blobs.exists("files/a/content")
    assert blobs.list("files/a") == ["files/a/content"]
    assert blobs.fetch("files/a/content").read_bytes() == b"onetwo"


def test_a_large_blob_comes_whole_or_not_at_all(blobs: Blobs) -> None:
    data = make_bytes(LARGE)
    with blobs.create("files/a/content") as writer:
        for at in range(0, LARGE, 1 << 19):
            writer.write(data[at : at + (1 << 19)])
        assert blobs.list("files/a") == []
    assert find_filled(blobs, "files") == []
    assert blobs.list("files/a") == []
    with blobs.create("files/a/content") as writer:
        for at in range(0, LARGE, 1 << 19):
            writer.write(data[at : at + (1 << 19)])
        writer.seal()
        writer.abort()
    assert blobs.read("files/a/content") == data
    assert b"".join(blobs.read_chunks("files/a/content", 5, LARGE, 1 << 20)) == data[5:]
    assert blobs.measure("files/a") == LARGE


def test_two_writers_of_one_key_do_not_mix(blobs: Blobs) -> None:
    with blobs.create("files/k/content") as first, blobs.create("files/k/content") as second:
        first.write(b"first")
        second.write(b"second")
        first.seal()
        second.seal()
    assert blobs.read("files/k/content") == b"second"


def test_reads_at_any_place(blobs: Blobs) -> None:
    data = bytes(range(100))
    blobs.write("files/k/content", data)
    with blobs.open("files/k/content") as reader:
        assert reader.read(10, 5) == data[10:15]
        assert reader.read(15, 5) == data[15:20]
        assert reader.read(98, 10) == data[98:]
        assert reader.read(100, 10) == b""
        assert reader.size_bytes == 100
        for offset, length in ((0, 10), (10, 5), (90, 20), (3, 4), (99, 1), (50, 0)):
            assert reader.read_on(offset, length) == data[offset : offset + length]
            assert not length or reader.is_at_hand(offset, min(length, 100 - offset))
    assert b"".join(blobs.read_chunks("files/k/content", 20, 50, chunk_bytes=7)) == data[20:70]


def test_an_empty_blob_is_one(blobs: Blobs) -> None:
    blobs.write("files/k/content", b"")
    assert blobs.read("files/k/content") == b""
    with blobs.open("files/k/content") as reader:
        assert (reader.size_bytes, reader.read(0, 10), reader.read_on(0, 10)) == (0, b"", b"")


def test_a_mark_changes_with_the_bytes_and_only_then(blobs: Blobs) -> None:
    blobs.write("files/k/content", b"one")
    mark = blobs.look_at("files/k/content")
    assert mark == blobs.look_at("files/k/content")
    assert mark.size_bytes == 3
    blobs.write("files/k/content", b"two")
    assert mark != blobs.look_at("files/k/content")


def test_folders_tell_what_is_in_them(blobs: Blobs) -> None:
    for key in ("files/a/content", "files/a/facts", "files/b/parts/1", "files/b/parts/2", "journals/x/gone"):
        blobs.write(key, b"12345")
    assert blobs.list_folders("files") == ["a", "b"]
    assert blobs.list("files/a") == ["files/a/content", "files/a/facts"]
    assert blobs.list("files/b") == []
    assert blobs.list("files/c") == []
    assert blobs.list_folders("nothing") == []
    assert blobs.find_folders("files", "facts") == {"a"}
    assert blobs.find_folders("files", "parts") == {"b"}
    assert blobs.find_folders("files", "part") == set()
    assert (blobs.measure("files"), blobs.measure("files/b"), blobs.measure("files/c")) == (20, 10, 0)


def test_what_is_removed_is_gone_and_may_be_removed_again(blobs: Blobs) -> None:
    for key in ("files/a/content", "files/a/index", "files/b/parts/1", "files/c/content"):
        blobs.write(key, b"x")
    blobs.delete("files/a/content")
    blobs.delete("files/a/content")
    assert find_filled(blobs, "files") == ["a", "b", "c"]
    blobs.remove_all(["files/a/index", "files/a/content"], "files/a")
    blobs.delete_folder("files/b")
    blobs.delete_folder("files/b")
    assert not blobs.exists("files/b/parts/1")
    assert blobs.list("files/a") == []
    assert blobs.list("files/c") == ["files/c/content"]


def test_a_name_can_be_changed(blobs: Blobs) -> None:
    blobs.write("files/a/facts.pending", b"x")
    blobs.rename("files/a/facts.pending", "files/a/facts")
    assert blobs.list("files/a") == ["files/a/facts"]
    with pytest.raises(NotFound):
        blobs.rename("files/a/facts.pending", "files/a/facts")


def test_a_folder_can_be_put_aside(blobs: Blobs) -> None:
    keys = [f"files/a/parts/{number}" for number in range(20)] + ["files/a/content"]
    for key in keys:
        blobs.write(key, key.encode())
    place = blobs.put_aside("files/a", "quarantine")
    assert find_filled(blobs, "files") == []
    assert blobs.list_folders("quarantine") == [place.removeprefix("quarantine/")]
    assert place.partition("/")[2].partition("-")[0].isdigit()
    assert all(blobs.read(place + key.removeprefix("files/a")) == key.encode() for key in keys)


def test_blobs_that_are_sealed_together_are_all_there(blobs: Blobs) -> None:
    keys = [f"files/{number}/{name}" for number in range(12) for name in ("facts", "content")]
    with ExitStack() as stack:
        writers = [stack.enter_context(blobs.create(key)) for key in keys]
        for writer, key in zip(writers, keys, strict=True):
            writer.write(key.encode())
        assert blobs.list_folders("files") == [] or not any(map(blobs.exists, keys))
        blobs.seal_together(writers)
    assert [blobs.read(key) for key in keys] == [key.encode() for key in keys]
    assert blobs.sweep() == 0


def test_facts_are_pending_until_they_are_confirmed(blobs: Blobs) -> None:
    file = File(id="file-1", owner="o", filename="a", purpose="batch-api", status=FileStatus.SEALED, created_at_ms=1)
    write_facts(blobs, file)
    assert read_facts(blobs, file.id) == file
    assert blobs.find_folders("files", "facts") == set()
    confirm_facts(blobs, file.id)
    assert blobs.find_folders("files", "facts") == {file.id}
    assert read_facts(blobs, file.id) == file
    withdraw_facts(blobs, file.id)
    assert read_facts(blobs, file.id) is None


def test_the_store_can_be_probed(blobs: Blobs) -> None:
    blobs.probe()
    assert [name for name in blobs.list("") if "probe" in name and blobs.exists(name)] in ([], ["/probe"], ["probe"])


def test_what_is_sealed_is_there_for_the_next_process(store: Store) -> None:
    with store.opened() as blobs:
        blobs.write("files/a/content", b"one")
    with store.opened() as blobs:
        assert blobs.read("files/a/content") == b"one"


def test_a_segment_is_made_once_and_grows(blobs: Blobs, tmp_path: Path) -> None:
    key = "journals/b/0000000001.segment"
    file = blobs.append_to(key, b"head")
    assert blobs.list_segments("journals/b") == [key]
    with pytest.raises(StoreUnavailable):
        blobs.append_to(key, b"head")
    with blobs.open_segment(key) as reader:
        assert (reader.size_bytes, reader.read(0, 100)) == (4, b"head")
        written = b"head"
        for number in range(5):
            for piece in (b"%d" % number * 7, b"|"):
                file.write(piece)
                written += piece
            file.begin_sync()
            file.sync()
            reader.sync()
            assert reader.size_bytes == len(written) == file.size_bytes
            assert reader.read(0, 1000) == written
            assert [reader.read(at, 5) for at in range(0, len(written), 5)] == [
                written[at : at + 5] for at in range(0, len(written), 5)
            ]
            assert reader.read_on(2, len(written) - 2) == written[2:]
    file.close()
    file.close()
    with blobs.open_segment(key) as reader:
        assert reader.read(0, 1000) == written


def test_a_segment_in_which_nothing_stands_leaves_nothing(blobs: Blobs) -> None:
    key = "journals/b/0000000001.segment"
    blobs.append_to(key, b"head").discard()
    assert blobs.list_segments("journals/b") == []
    with pytest.raises(NotFound):
        blobs.open_segment(key)


def test_segments_are_listed_by_their_epochs_and_removed_at_once(blobs: Blobs) -> None:
    keys = [f"journals/b/{epoch:010d}.segment" for epoch in (1, 2, 10, 300)]
    for key in keys:
        file = blobs.append_to(key, b"head")
        file.write(key.encode())
        file.sync()
        file.close()
    assert blobs.list_segments("journals/b") == keys
    assert blobs.list_folders("journals") == ["b"]
    blobs.remove_segments("journals/b")
    assert blobs.list_segments("journals/b") == []
    assert find_filled(blobs, "journals") == []
    blobs.delete_folder("removed")
    assert blobs.measure("") == 0


def test_of_two_who_write_once_the_first_one_counts(blobs: Blobs) -> None:
    assert blobs.write_once("place", b"first") == b"first"
    assert blobs.write_once("place", b"second") == b"first"
    assert blobs.read("place") == b"first"


def test_folders_in_which_nothing_was_written_of_late(blobs: Blobs) -> None:
    blobs.write("files/a/content", b"one")
    blobs.write("files/b/parts/1", b"two")
    now_ms = time.time_ns() // 1_000_000
    assert blobs.list_settled("files", now_ms - 600_000) == []
    assert list(blobs.list_settled("files", now_ms + 600_000)) == ["a", "b"]
    assert blobs.list_settled("nothing", now_ms) == []
