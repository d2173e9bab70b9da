"""A batch that was cut: a chain of segments for each slice, which know nothing of each other; one fold over all."""

from pathlib import Path

import pytest

from backfill.batch import Outcome, Usage
from backfill.errors import StoreUnavailable
from backfill.journal import Fold, Record, SlicedTail, begin_segment, fence
from backfill.journal.record import encode_header, encode_record
from backfill.store import LocalBlobs, SegmentFile, segment_key

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"
LINES = 12


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


def record(line: int, body: bytes) -> bytes:
    return encode_record(Record(line, Outcome.ANSWERED, 200, 1, Usage(1, 1), 1, 1, body))


def begin(blobs: LocalBlobs, number: int, epoch: int) -> SegmentFile:
    """As whoever takes a turn on a slice."""
    fold = Fold(blobs, BATCH, LINES, slice_number=number)
    fold.refresh()
    fold.close()
    return begin_segment(blobs, BATCH, epoch, fold.fences, slice_number=number)


def fold_bodies(blobs: LocalBlobs, number: int | None = None) -> dict[int, bytes]:
    fold = Fold(blobs, BATCH, LINES, slice_number=number)
    fold.refresh()
    entries = {line: fold.find(line) for line in range(LINES)}
    bodies = {line: fold.read_body(entry) for line, entry in entries.items() if entry is not None}
    assert fold.counts.answered == len(bodies)
    fold.close()
    return bodies


def read(tail: SlicedTail) -> list[int]:
    return [finished.line for finished in tail.read(1 << 20)]


def test_one_fold_sees_all_slices_and_one_of_a_slice_only_its_own(blobs: LocalBlobs) -> None:
    begin(blobs, 1, 1).write(record(0, b'"a"'))
    begin(blobs, 2, 1).write(record(6, b'"b"'))
    begin(blobs, 2, 2).write(record(7, b'"c"'))
    assert fold_bodies(blobs) == {0: b'"a"', 6: b'"b"', 7: b'"c"'}
    assert fold_bodies(blobs, 1) == {0: b'"a"'}
    assert fold_bodies(blobs, 2) == {6: b'"b"', 7: b'"c"'}
    assert fold_bodies(blobs, 0) == {}


def test_a_fence_of_one_slice_holds_for_no_other(blobs: LocalBlobs) -> None:
    first, second = begin(blobs, 1, 1), begin(blobs, 2, 1)
    first.write(record(0, b'"before"'))
    second.write(record(6, b'"before"'))
    fence(blobs, BATCH, LINES, 2, 1)
    first.write(record(1, b'"late"'))
    second.write(record(7, b'"in time"'))
    assert fold_bodies(blobs) == {0: b'"before"', 6: b'"before"', 7: b'"in time"'}
    with pytest.raises(StoreUnavailable):
        begin(blobs, 1, 2)
    begin(blobs, 2, 2).write(record(8, b'"next"'))
    assert 8 in fold_bodies(blobs)


def test_a_fold_that_took_in_too_much_of_one_slice_forgets_that(blobs: LocalBlobs) -> None:
    late, other = begin(blobs, 1, 1), begin(blobs, 2, 1)
    other.write(record(6, b'"other"'))
    kept = Fold(blobs, BATCH, LINES)
    kept.refresh()
    found = Fold(blobs, BATCH, LINES, slice_number=1)
    found.refresh()
    late.write(record(0, b'"late"'))
    kept.refresh()
    assert kept.counts.answered == 2
    begin_segment(blobs, BATCH, 2, found.fences, slice_number=1).write(record(1, b'"counts"'))
    kept.refresh()
    assert [line for line in range(LINES) if kept.outcomes[line]] == [1, 6]
    found.close()
    kept.close()


def test_a_segment_under_the_name_of_another_slice_is_ignored(blobs: LocalBlobs) -> None:
    content = encode_header(BATCH, 1, {}, 2) + record(0, b'"x"')
    blobs.write(segment_key(BATCH, 1, 3), content)
    blobs.write(segment_key(BATCH, 1), content)
    assert fold_bodies(blobs) == {}
    blobs.write(segment_key(BATCH, 1, 2), content)
    assert fold_bodies(blobs) == {0: b'"x"'}


def test_the_tail_gives_slices_as_they_are_drained_and_never_changes_its_order(blobs: LocalBlobs) -> None:
    segments = {number: begin(blobs, number, 1) for number in (1, 2, 3)}
    for number, segment in segments.items():
        for line in range(4 * (number - 1), 4 * number - 1):
            segment.write(record(line, b'"x"'))
    tail = SlicedTail(blobs, BATCH, LINES)
    assert read(tail) == []
    tail.note_slices([])
    assert read(tail) == []
    tail.note_slices([2])
    assert read(tail) == [4, 5, 6]
    segments[1].write(record(3, b'"x"'))
    tail.note_slices([2, 1])
    assert read(tail) == [0, 1, 2, 3]
    tail.note_slices([2, 1])
    assert read(tail) == []
    # Another process, later, wherever its reader goes on.
    order = [4, 5, 6, 0, 1, 2, 3, 8, 9, 10]
    for after in range(len(order) + 1):
        later = SlicedTail(blobs, BATCH, LINES, after)
        later.note_slices([2, 1, 3])
        assert read(later) == order[after:]
        assert list(later.find_unfinished()) == [7, 11]
        later.close()
    tail.close()


def test_the_tail_passes_over_what_a_lost_holder_wrote(blobs: LocalBlobs) -> None:
    lost = begin(blobs, 1, 1)
    lost.write(record(0, b'"first"'))
    following = begin(blobs, 1, 2)
    lost.write(record(1, b'"late"'))
    following.write(record(1, b'"counts"'))
    tail = SlicedTail(blobs, BATCH, LINES)
    tail.note_slices([1])
    assert [finished.body for finished in tail.read(1 << 20)] == [b'"first"', b'"counts"']
    tail.close()
