"""A segment says how far the older ones count: whoever lost his turn and writes on changes nothing."""

from pathlib import Path

import pytest

from backfill.batch import Batch, Outcome, State, Usage
from backfill.errors import StoreUnavailable
from backfill.journal import Fold, Record, Tail, begin_segment, fence
from backfill.journal.record import encode_header, encode_record
from backfill.store import LocalBlobs, SegmentFile, segment_key

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"
LINES = 9


def record(line: int, body: bytes) -> bytes:
    return encode_record(Record(line, Outcome.ANSWERED, 200, 1, Usage(1, 1), 1, 1, body))


def make_row(epoch: int, holder: str | None) -> Batch:
    return Batch(
        id=BATCH,
        owner="one",
        endpoint="/v1/chat/completions",
        input_file_id="file",
        input_size_bytes=1,
        state=State.IN_PROGRESS,
        created_at_ms=1,
        deadline_at_ms=2,
        epoch=epoch,
        holder=holder,
    )


def find_fences(blobs: LocalBlobs) -> dict[int, int]:
    fold = Fold(blobs, BATCH, LINES)
    fold.refresh()
    fold.close()
    return fold.fences


def begin(blobs: LocalBlobs, epoch: int) -> SegmentFile:
    return begin_segment(blobs, BATCH, epoch, find_fences(blobs))


def fold_bodies(blobs: LocalBlobs) -> list[bytes]:
    fold = Fold(blobs, BATCH, LINES)
    fold.refresh()
    entries = [fold.find(line) for line in range(LINES)]
    bodies = [fold.read_body(entry) for entry in entries if entry is not None]
    fold.close()
    return bodies


def read(tail: Tail) -> list[bytes]:
    return [finished.body for finished in tail.read(1 << 20)]


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


def test_what_is_written_behind_a_fence_never_counts(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"in time"))
    kept = Fold(blobs, BATCH, LINES)
    second = begin(blobs, 2)
    first.write(record(1, b"late"))
    second.write(record(2, b"second"))
    assert fold_bodies(blobs) == [b"in time", b"second"]
    # A third one repeats what the second found, though the first goes on.
    third = begin(blobs, 3)
    first.write(record(3, b"later"))
    third.write(record(1, b"third"))
    assert fold_bodies(blobs) == [b"in time", b"third", b"second"]
    kept.refresh()
    assert kept.counts.done == 3
    kept.close()


def test_what_a_fold_took_in_from_behind_a_fence_is_forgotten(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"in time"))
    fences = find_fences(blobs)
    first.write(record(1, b"late"))
    fold = Fold(blobs, BATCH, LINES)
    fold.refresh()
    assert fold.counts.done == 2
    begin_segment(blobs, BATCH, 2, fences)
    fold.refresh()
    assert (fold.counts.done, fold.find(1)) == (1, None)
    fold.close()


def test_a_segment_that_is_begun_after_its_turn_was_lost_never_counts(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"first"))
    fences_of_second = find_fences(blobs)
    third = begin(blobs, 3)
    second = begin_segment(blobs, BATCH, 2, fences_of_second)
    second.write(record(1, b"second"))
    third.write(record(1, b"third"))
    assert fold_bodies(blobs) == [b"first", b"third"]
    with pytest.raises(StoreUnavailable, match="later turn"):
        begin(blobs, 2)


def test_a_fence_alone_is_enough(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"in time"))
    fence(blobs, BATCH, LINES, 2)
    first.write(record(1, b"late"))
    assert fold_bodies(blobs) == [b"in time"]


def test_a_torn_header_fences_nothing(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"first"))
    blobs.write(segment_key(BATCH, 2), encode_header(BATCH, 2, {})[:-1])
    assert fold_bodies(blobs) == [b"first"]
    begin(blobs, 3).write(record(1, b"third"))
    assert fold_bodies(blobs) == [b"first", b"third"]


def test_many_fences_are_read_back(blobs: LocalBlobs) -> None:
    segments = [begin(blobs, epoch) for epoch in range(1, 301)]
    for number, segment in enumerate(segments):
        segment.close()
        assert find_fences(blobs)[number + 1]
    assert len(find_fences(blobs)) == 300


def test_segments_of_before_there_were_fences_count_as_they_did(blobs: LocalBlobs) -> None:
    for epoch in (1, 2):
        content = encode_header(BATCH, epoch) + record(epoch, b"%d" % epoch) + record(0, b"by %d" % epoch)
        blobs.write(segment_key(BATCH, epoch), content)
    assert fold_bodies(blobs) == [b"by 1", b"1", b"2"]
    begin(blobs, 3).write(record(3, b"3"))
    assert fold_bodies(blobs) == [b"by 1", b"1", b"2", b"3"]


def test_a_reader_gives_out_nothing_that_the_next_turn_may_cut_off(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"in time"))
    tail = Tail(blobs, BATCH, LINES, is_shared=True)
    fences = find_fences(blobs)
    first.write(record(1, b"late"))
    tail.look()
    # Somebody has the next turn, and has not begun his segment.
    assert not tail.is_settled(make_row(2, "second"))
    begin_segment(blobs, BATCH, 2, fences)
    # By now he has begun it, and given it back: what was noted before is too much.
    assert not tail.is_settled(make_row(2, None))
    assert read(tail) == []
    tail.look()
    assert tail.is_settled(make_row(2, None))
    tail.begin_pass()
    assert read(tail) == [b"in time"]
    tail.close()


def test_a_reader_waits_for_nobody_if_nobody_has_a_turn(blobs: LocalBlobs) -> None:
    first = begin(blobs, 1)
    first.write(record(0, b"first"))
    tail = Tail(blobs, BATCH, LINES, is_shared=True)
    tail.look()
    first.write(record(1, b"more"))
    # The second turn was given back without a record, so that its segment is gone.
    assert tail.is_settled(make_row(2, None))
    tail.begin_pass()
    # No further than was noted.
    assert read(tail) == [b"first"]
    tail.close()
