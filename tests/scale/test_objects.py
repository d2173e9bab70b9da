"""An object store alone: few calls, one holder at a time, faults that heal, and no secret in what is said of them."""

import random
import threading
import time
from collections import Counter
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import GenericError

from backfill.batch import Outcome, Usage
from backfill.engines.environment import choose_environment
from backfill.errors import StoreUnavailable
from backfill.journal import Fold, Record, SegmentWriter, Tail, begin_segment
from backfill.journal.record import encode_record
from bench.scale.seaweed import SECRET_KEY, ObjectServer
from tests.support.stores import ObjectStore

pytestmark = pytest.mark.scale

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the store was asked, by the kind of the call."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        real = getattr(obstore, name)

        def call(*arguments: object, **options: object) -> object:
            counts[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(obstore, name, call)

    for name in ("put", "get", "head", "list", "list_with_delimiter", "delete", "copy"):
        count(name)
    return counts


def make_record(line: int, body: bytes = b'{"a":1}') -> Record:
    return Record(line, Outcome.ANSWERED, 200, 1, Usage(10, 5, 1), 1_750_000_000_000, 12, body)


def test_what_several_read_at_the_same_time_is_asked_for_once(object_store: ObjectStore, calls: Counter[str]) -> None:
    """As the slices of a batch do with its input, whose lines may be anywhere in it."""
    with object_store.opened() as blobs:
        blobs.write("files/a/content", b"x" * (3 << 20))
        one, other = blobs.open("files/a/content"), blobs.open("files/a/content")
        calls.clear()
        for reader in (one, other):
            assert reader.read_on(0, 3 << 20) == b"x" * (3 << 20)
        assert calls["get"] == 3
        one.close()
        one.close()
        assert other.read_on(1 << 20, 9) == b"x" * 9
        assert calls["get"] == 3
        # What was written anew is another one.
        blobs.write("files/a/content", b"y" * 9)
        with blobs.open("files/a/content") as third:
            assert third.read_on(0, 9) == b"y" * 9
        other.close()
        with blobs.open("files/a/content") as fourth:
            calls.clear()
            assert fourth.read_on(0, 9) == b"y" * 9
            assert calls["get"] == 1


def test_lines_in_any_order_cost_one_call_for_some_hundred_of_them(
    object_store: ObjectStore, calls: Counter[str]
) -> None:
    lines, length = 10_000, 1000
    with object_store.opened() as blobs:
        blobs.write("files/a/content", b"".join(b"%-999d\n" % number for number in range(lines)))
        order = list(range(lines))
        random.Random(7).shuffle(order)
        with blobs.open("files/a/content") as reader:
            calls.clear()
            for line in order:
                assert int(reader.read_on(line * length, length)) == line
            assert calls["get"] <= lines / 500
            assert reader.is_at_hand(0, lines * length)


def test_a_blob_read_to_its_end_costs_a_call_for_some_megabytes(object_store: ObjectStore, calls: Counter[str]) -> None:
    data = bytes(10 << 20)
    with object_store.opened() as blobs:
        blobs.write("files/a/content", data)
        calls.clear()
        assert b"".join(blobs.read_chunks("files/a/content", 0, len(data))) == data
        with blobs.open("files/a/content") as reader:
            for offset in range(0, len(data), 1 << 18):
                assert len(reader.read(offset, 1 << 18)) == 1 << 18
        assert calls["get"] <= 8


def test_threads_that_want_the_same_ask_once(object_store: ObjectStore, calls: Counter[str]) -> None:
    with object_store.opened() as blobs:
        blobs.write("files/a/content", bytes(1 << 20))
        with blobs.open("files/a/content") as reader:
            calls.clear()
            threads = [threading.Thread(target=reader.read_on, args=(at * 100, 100)) for at in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert calls["get"] == 1


def test_without_room_on_the_local_disk_lines_are_read_all_the_same(object_store: ObjectStore) -> None:
    object_store.settings["store.s3_cache_bytes"] = "0"
    with object_store.opened() as blobs:
        blobs.write("files/a/content", bytes(range(200)))
        with blobs.open("files/a/content") as reader:
            assert reader.read_on(10, 5) == bytes(range(10, 15))
            assert not reader.is_at_hand(10, 5)


async def test_records_are_stored_in_groups(object_store: ObjectStore, calls: Counter[str]) -> None:
    with object_store.opened() as blobs:
        writer = await SegmentWriter.create(blobs, BATCH, 1)
        calls.clear()
        for line in range(1000):
            writer.append(make_record(line))
        await writer.sync()
        assert calls["put"] <= 5
        await writer.close()
        fold = Fold(blobs, BATCH, 1000)
        fold.refresh()
        assert fold.counts.answered == 1000
        calls.clear()
        for line in range(1000):
            assert fold.read_answer(line) == (200, b'{"a":1}')
        assert calls["get"] <= 5
        fold.close()


async def test_a_holder_that_was_fenced_out_adds_nothing(object_store: ObjectStore) -> None:
    with object_store.opened() as blobs:
        older = await SegmentWriter.create(blobs, BATCH, 1)
        older.append(make_record(0))
        await older.sync()
        tail = Tail(blobs, BATCH, 9)
        assert [found.line for found in tail.read(1000)] == [0]
        newer = await SegmentWriter.create(blobs, BATCH, 2)
        older.append(make_record(1))
        newer.append(make_record(2))
        with pytest.raises(StoreUnavailable, match="another process holds the batch"):
            await older.sync()
        await newer.sync()
        assert [found.line for found in tail.read(1000)] == [2]
        # One who wakes up with an older turn begins nothing.
        with pytest.raises(StoreUnavailable, match="later turn"):
            await SegmentWriter.create(blobs, BATCH, 1 - 1)
        await older.close()
        await newer.close()
        tail.close()
        assert blobs.list_segments(f"journals/{BATCH}") == [
            f"journals/{BATCH}/{epoch:010d}.segment" for epoch in (1, 2)
        ]


def test_a_write_whose_answer_was_lost_counts_once(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store.opened() as blobs:
        file = blobs.append_to("journals/b/0000000001.segment", b"head")
        real = obstore.put
        failed: list[object] = []

        def lose_the_answer(*arguments: object, **options: object) -> object:
            answer = real(*arguments, **options)  # type: ignore[arg-type]
            if not failed:
                failed.append(answer)
                raise GenericError("connection closed")
            return answer

        monkeypatch.setattr(obstore, "put", lose_the_answer)
        file.write(b"one")
        file.sync()
        file.write(b"two")
        file.sync()
        assert len(failed) == 1
        with blobs.open_segment("journals/b/0000000001.segment") as reader:
            assert reader.read(0, 100) == b"headonetwo"


def test_what_the_store_says_goes_into_no_error(object_store: ObjectStore) -> None:
    object_store.settings["store.s3_secret_access_key"] = "wrong-" + SECRET_KEY
    with object_store.opened() as blobs, pytest.raises(StoreUnavailable) as caught:
        blobs.write("files/a/content", b"x")
    assert caught.value.message == "Cannot write files/a/content in the object store: it refuses the access key."
    assert caught.value.__cause__ is None


def test_children_inherit_no_key() -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "BACKFILL_STORE__S3_SECRET_ACCESS_KEY")
    assert choose_environment(dict.fromkeys(names, "x")) == {}


def test_an_outage_is_waited_for_and_then_told_at_once(tmp_path: Path) -> None:
    with ObjectServer(tmp_path / "weed") as server:
        store = ObjectStore(server, tmp_path)
        with store.opened() as blobs:
            blobs.write("files/a/content", b"one")
            file = blobs.append_to("journals/b/0000000001.segment", b"head")
            server.kill()
            file.write(b"one")
            syncing = threading.Thread(target=file.sync)
            syncing.start()
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                blobs.read("files/a/content")
            server.start()
            syncing.join()
            assert blobs.read("files/a/content") == b"one"
            with blobs.open_segment("journals/b/0000000001.segment") as reader:
                assert reader.read(0, 100) == b"headone"


def test_slices_of_one_batch_are_fenced_each_by_itself_and_ask_for_nothing_once_they_are_over(
    object_store: ObjectStore, calls: Counter[str]
) -> None:
    with object_store.opened() as blobs:
        first, second = (begin_segment(blobs, BATCH, 1, {}, slice_number=number) for number in (1, 2))
        for segment, line in ((first, 0), (second, 6)):
            segment.write(encode_record(make_record(line)))
            segment.sync()
        fold = Fold(blobs, BATCH, 9)
        fold.refresh()
        # The first slice goes to another holder; the second one's goes on.
        begin_segment(blobs, BATCH, 2, {1: fold.fences[1]}, slice_number=1)
        first.write(encode_record(make_record(1)))
        with pytest.raises(StoreUnavailable):
            first.sync()
        second.write(encode_record(make_record(7)))
        second.sync()
        with pytest.raises(StoreUnavailable):
            begin_segment(blobs, BATCH, 1, {}, slice_number=1)
        fold.refresh()
        assert [line for line in range(9) if fold.outcomes[line]] == [0, 6, 7]
        second.end()
        fold.refresh()
        calls.clear()
        fold.refresh()
        # One for the folder, one for the only segment that may still grow.
        assert calls["list"] == 2
        fold.close()


def test_a_segment_that_goes_while_it_is_looked_at_is_passed_over(object_store: ObjectStore) -> None:
    with object_store.opened() as blobs:
        first = begin_segment(blobs, BATCH, 1, {}, durably=True)
        first.write(encode_record(make_record(0)))
        first.sync()
        fold = Fold(blobs, BATCH, 9)
        fold.refresh()
        empty = begin_segment(blobs, BATCH, 2, fold.fences, durably=True)
        # It is found, and removed as nothing stands in it, before its header is read.
        fold._chain._open_new()
        empty.discard()
        fold.refresh()
        assert [line for line in range(9) if fold.outcomes[line]] == [0]
        third = begin_segment(blobs, BATCH, 3, fold.fences, durably=True)
        third.write(encode_record(make_record(1)))
        third.sync()
        fold.refresh()
        assert [line for line in range(9) if fold.outcomes[line]] == [0, 1]
        fold.close()


def test_who_reads_on_waits_for_the_first_piece_alone(object_store: ObjectStore, calls: Counter[str]) -> None:
    lines, length = 6000, 1000
    with object_store.opened() as blobs:
        blobs.write("files/a/content", b"".join(b"%-999d\n" % number for number in range(lines)))
        with blobs.open("files/a/content") as reader:
            calls.clear()
            assert int(reader.read_on(0, length)) == 0
            # What lies behind comes by itself.
            for behind in (1_500_000, 2_500_000):
                while not reader.is_at_hand(behind, length):
                    time.sleep(0.01)
            assert not reader.is_at_hand(4_000_000, length)
            assert calls["get"] == 3
            assert [int(reader.read_on(line * length, length)) for line in range(lines)] == list(range(lines))
            assert calls["get"] == 6
            # Also backwards, across pieces, and beyond the end.
            assert [int(reader.read_on(line * length, length)) for line in (5, 4, 1048, 1, 5999)] == [
                5,
                4,
                1048,
                1,
                5999,
            ]
            assert len(reader.read_on(lines * length - 10, 100)) == 10
            assert calls["get"] == 6
