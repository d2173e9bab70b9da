"""Segments: what is appended is folded back, a torn tail is left out, and the first record of a line counts."""

import asyncio
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from backfill.batch import Outcome, Usage
from backfill.errors import StoreUnavailable
from backfill.journal import Fold, Record, SegmentWriter, SyncGroup, Tail, begin_segment
from backfill.journal.record import HEADER_BYTES, encode_header, encode_record
from backfill.journal.segment import scan_records
from backfill.store import AppendFile, LocalBlobs, LocalReader, segment_key

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"


def make_record(line: int, body: bytes = b"{}", outcome: Outcome = Outcome.ANSWERED) -> Record:
    return Record(line, outcome, 200, 1, Usage(10, 5, 1), 1_750_000_000_000, 12, body)


def fold_of(blobs: LocalBlobs, lines: int) -> Fold:
    fold = Fold(blobs, BATCH, lines)
    fold.refresh()
    return fold


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


async def test_what_is_appended_is_folded_back(blobs: LocalBlobs) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    writer.append(make_record(2, b'{"a":1}'))
    writer.append(make_record(0, b'{"e":1}', Outcome.REFUSED))
    await writer.sync()
    fold = fold_of(blobs, 4)
    assert list(fold.outcomes) == [Outcome.REFUSED, 0, Outcome.ANSWERED, 0]
    entry = fold.find(2)
    assert entry is not None
    assert fold.read_body(entry) == b'{"a":1}'
    assert fold.find(1) is None
    counts = fold.counts
    assert (counts.total, counts.answered, counts.failed, counts.done) == (4, 1, 1, 2)
    assert counts.usage == Usage(20, 10, 2)
    fold.close()
    await writer.close()


async def test_reused_outcomes_are_counted_with_the_others_and_their_usage_apart(blobs: LocalBlobs) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    writer.append(make_record(0, b'{"a":1}'))
    writer.append(replace(make_record(1, b'{"a":1}'), reused=True))
    writer.append(replace(make_record(2, b'{"a":1}'), reused=True, usage=Usage(7, 3, 2)))
    writer.append(replace(make_record(3, b'{"e":1}', Outcome.REFUSED), reused=True, usage=Usage()))
    await writer.close()
    fold = fold_of(blobs, 5)
    counts = fold.counts
    assert (counts.answered, counts.failed, counts.done, counts.reused) == (3, 1, 4, 3)
    assert counts.usage == Usage(10, 5, 1)
    assert counts.reused_usage == Usage(17, 8, 3)
    # To whoever reads an outcome it is one like any other.
    assert list(fold.outcomes) == [Outcome.ANSWERED] * 3 + [Outcome.REFUSED, 0]
    entry = fold.find(2)
    assert entry is not None
    assert fold.read_body(entry) == b'{"a":1}'
    fold.close()
    tail = Tail(blobs, BATCH, 5)
    assert [(finished.line, finished.body) for finished in tail.read(1 << 20)] == [
        (0, b'{"a":1}'),
        (1, b'{"a":1}'),
        (2, b'{"a":1}'),
        (3, b'{"e":1}'),
    ]
    tail.close()


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("reused", [False, True])
def test_whether_a_record_was_reused_is_read_back_with_every_outcome(outcome: Outcome, reused: bool) -> None:
    data = encode_record(replace(make_record(3, outcome=outcome), reused=reused))
    (record,) = scan_records(data, 0)
    assert (record.line, record.outcome, record.reused) == (3, outcome, reused)
    assert record.body_offset + record.body_length == len(data)


def test_records_of_before_there_were_reused_ones_are_read_as_ever(blobs: LocalBlobs) -> None:
    # Written out here, as an earlier version did: the outcome's byte has the outcome and nothing else.
    data = encode_header(BATCH, 1)
    for line, outcome in enumerate((1, 2, 3)):
        rest = struct.pack("<IBBHIIIQI", line, outcome, 1, 200, 10, 5, 1, 1_750_000_000_000, 12) + b"{}"
        data += struct.pack("<II", len(rest), zlib.crc32(rest)) + rest
    blobs.write(segment_key(BATCH, 1), data)
    fold = fold_of(blobs, 3)
    assert list(fold.outcomes) == [Outcome.ANSWERED, Outcome.REFUSED, Outcome.EXHAUSTED]
    counts = fold.counts
    assert (counts.answered, counts.failed, counts.reused) == (1, 2, 0)
    assert (counts.usage, counts.reused_usage) == (Usage(30, 15, 3), Usage())
    fold.close()


async def test_a_fold_reads_on_from_where_it_was(blobs: LocalBlobs) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    fold = fold_of(blobs, 3000)
    for line in range(3000):
        writer.append(make_record(line, b"{%d}" % line))
        if line % 1000 == 999:
            await writer.sync()
            fold.refresh()
            assert fold.counts.done == line + 1
    await writer.close()
    fold.close()


async def test_records_are_written_before_the_next_event_and_synced_in_groups(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    real = AppendFile.sync

    def count(self: AppendFile) -> None:
        nonlocal syncs
        syncs += 1
        real(self)

    monkeypatch.setattr(AppendFile, "sync", count)
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    for line in range(1000):
        writer.append(make_record(line))
    await asyncio.sleep(0)
    assert fold_of(blobs, 1000).counts.done == 1000
    await writer.sync()
    assert 1 <= syncs <= 5
    await writer.close()


async def test_the_first_record_of_a_line_counts_by_epoch(blobs: LocalBlobs) -> None:
    newer = await SegmentWriter.create(blobs, BATCH, 2)
    older = await SegmentWriter.create(blobs, BATCH, 1)
    newer.append(make_record(0, b'"newer"'))
    older.append(make_record(0, b'"older"'))
    await newer.close()
    await older.close()
    fold = fold_of(blobs, 1)
    entry = fold.find(0)
    assert entry is not None
    assert fold.read_body(entry) == b'"older"'
    assert fold.counts.usage == Usage(10, 5, 1)
    fold.close()


async def test_a_segment_is_never_opened_twice(blobs: LocalBlobs) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    with pytest.raises(StoreUnavailable):
        await SegmentWriter.create(blobs, BATCH, 1)
    await writer.close()


def test_a_segment_of_another_batch_is_ignored(blobs: LocalBlobs) -> None:
    blobs.write(segment_key(BATCH, 1), encode_header("another", 1) + encode_record(make_record(0)))
    assert fold_of(blobs, 1).counts.done == 0


async def test_a_failed_write_ends_the_segment(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    writer.append(make_record(0))
    await writer.sync()

    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(AppendFile, "write", fail)
    writer.append(make_record(1))
    with pytest.raises(StoreUnavailable):
        await writer.sync()
    monkeypatch.undo()
    # Behind bytes of unknown length a record would never be found again, so none may be written.
    with pytest.raises(StoreUnavailable):
        writer.append(make_record(2))
    await writer.close()
    assert fold_of(blobs, 3).counts.done == 1


BODIES = st.lists(st.binary(max_size=60), min_size=1, max_size=12)


@settings(max_examples=60)
@given(bodies=BODIES, cut=st.integers(0, 2000))
def test_a_torn_tail_costs_the_torn_record_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], cut: int
) -> None:
    blobs = LocalBlobs(tmp_path_factory.mktemp("torn"))
    records = [encode_record(make_record(line, body)) for line, body in enumerate(bodies)]
    whole = encode_header(BATCH, 1) + b"".join(records)
    torn = whole[: min(cut, len(whole))]
    blobs.write(segment_key(BATCH, 1), torn)
    fold = fold_of(blobs, len(bodies))
    kept, end = 0, HEADER_BYTES
    while kept < len(records) and end + len(records[kept]) <= len(torn):
        end += len(records[kept])
        kept += 1
    assert [bool(outcome) for outcome in fold.outcomes] == [line < kept for line in range(len(bodies))]
    for line in range(kept):
        entry = fold.find(line)
        assert entry is not None
        assert fold.read_body(entry) == bodies[line]
    fold.close()


@settings(max_examples=60)
@given(bodies=BODIES, position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_byte_never_yields_a_wrong_body(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], position: int, flip: int
) -> None:
    blobs = LocalBlobs(tmp_path_factory.mktemp("flipped"))
    data = bytearray(encode_header(BATCH, 1))
    data += b"".join(encode_record(make_record(line, body)) for line, body in enumerate(bodies))
    data[position % len(data)] ^= flip
    blobs.write(segment_key(BATCH, 1), bytes(data))
    fold = fold_of(blobs, len(bodies))
    for line, body in enumerate(bodies):
        entry = fold.find(line)
        assert entry is None or fold.read_body(entry) == body
    fold.close()


def test_a_record_longer_than_one_read_is_read_whole(blobs: LocalBlobs) -> None:
    body = b'"' + b"x" * (3 << 20) + b'"'
    data = encode_header(BATCH, 1) + encode_record(make_record(0, body)) + encode_record(make_record(1))
    blobs.write(segment_key(BATCH, 1), data)
    fold = fold_of(blobs, 2)
    assert fold.counts.done == 2
    entry = fold.find(0)
    assert entry is not None
    assert fold.read_body(entry) == body
    fold.close()


def read_tail(tail: Tail, size_bytes: int = 1 << 20) -> list[bytes]:
    found: list[bytes] = []
    while more := tail.read(size_bytes):
        found += [finished.body for finished in more]
    return found


async def test_a_tail_gives_lines_as_they_finish_and_each_once(blobs: LocalBlobs) -> None:
    tail = Tail(blobs, BATCH, 9)
    assert tail.read(1) == []
    first = await SegmentWriter.create(blobs, BATCH, 1)
    for line in (5, 2, 2, 7, 99):
        first.append(make_record(line, b"%d" % line))
    await first.close()
    assert read_tail(tail) == [b"5", b"2", b"7"]
    second = await SegmentWriter.create(blobs, BATCH, 2)
    for line in (7, 0, 5):
        second.append(make_record(line, b"%d again" % line))
    await second.close()
    assert read_tail(tail) == [b"0 again"]
    assert list(tail.find_unfinished()) == [1, 3, 4, 6, 8]
    tail.close()


@pytest.mark.parametrize("size_bytes", [1, 200, 1 << 20])
async def test_a_tail_goes_on_behind_any_line_with_bounded_pieces(blobs: LocalBlobs, size_bytes: int) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    bodies = [b"%03d" % line + b"x" * 97 for line in range(60)]
    for line, body in enumerate(bodies):
        writer.append(make_record(line, body))
    await writer.close()
    for after in (0, 1, 31, 60, 70):
        tail = Tail(blobs, BATCH, 60, after)
        pieces = []
        while piece := tail.read(size_bytes):
            pieces.append(piece)
        assert all(sum(len(finished.body) for finished in piece) < size_bytes + 100 for piece in pieces)
        assert [finished.body for piece in pieces for finished in piece] == bodies[after:]
        assert tail.to_skip == max(after - 60, 0)
        tail.close()


async def test_a_tail_gives_out_nothing_that_is_not_on_disk(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = LocalReader.sync

    def note(self: LocalReader) -> None:
        synced.append(self.size_bytes)
        real(self)

    monkeypatch.setattr(LocalReader, "sync", note)
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    tail = Tail(blobs, BATCH, 3)
    for line in range(3):
        writer.append(make_record(line, b"%d" % line))
        await asyncio.sleep(0)
        assert read_tail(tail) == [b"%d" % line]
        with blobs.open(segment_key(BATCH, 1)) as segment:
            assert (len(synced), synced[-1]) == (line + 1, segment.size_bytes)
    assert (tail.read(1), len(synced)) == ([], 3)
    tail.close()
    await writer.close()


async def test_a_tail_does_not_look_behind_a_torn_record(blobs: LocalBlobs) -> None:
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    writer.append(make_record(0, b"0"))
    await writer.close()
    whole = blobs.read(segment_key(BATCH, 1))
    blobs.write(segment_key(BATCH, 1), whole + whole[-20:])
    tail = Tail(blobs, BATCH, 2)
    assert read_tail(tail) == [b"0"]
    later = await SegmentWriter.create(blobs, BATCH, 2)
    later.append(make_record(1, b"1"))
    await later.close()
    assert read_tail(tail) == [b"1"]
    tail.close()


async def test_segments_that_share_their_syncs_are_each_whole(blobs: LocalBlobs) -> None:
    syncs = SyncGroup()
    batch_ids = [f"0b5f7a3e-0000-4000-8000-00000000001{number}" for number in range(4)]
    writers = [SegmentWriter(begin_segment(blobs, batch_id, 1), syncs) for batch_id in batch_ids]
    for writer in writers:
        writer.append(make_record(0))
    await asyncio.gather(*(writer.sync() for writer in writers))
    for batch_id, writer in zip(batch_ids, writers, strict=True):
        await writer.close()
        fold = Fold(blobs, batch_id, 1)
        fold.refresh()
        assert fold.counts.answered == 1
        fold.close()


async def test_a_segment_that_cannot_be_synced_fails_alone(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = SyncGroup()
    sound, broken = (SegmentWriter(begin_segment(blobs, BATCH, epoch), syncs) for epoch in (1, 2))
    sync = AppendFile.sync

    def fail(file: AppendFile) -> None:
        if file is broken._file:
            message = "no space left"
            raise StoreUnavailable(message)
        sync(file)

    monkeypatch.setattr(AppendFile, "sync", fail)
    for writer in (sound, broken):
        writer.append(make_record(0))
    outcomes = await asyncio.gather(sound.sync(), broken.sync(), return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], StoreUnavailable)
    for writer in (sound, broken):
        await writer.close()


@pytest.mark.parametrize("reads", [False, True])
async def test_whoever_makes_a_segment_durable_makes_its_name_so(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    folders: list[Path] = []
    for module in ("disk", "append_file"):
        monkeypatch.setattr(f"backfill.store.{module}.sync_folder", folders.append)
    writer = await SegmentWriter.create(blobs, BATCH, 1)
    writer.append(make_record(0))
    writer._write_pending()
    if reads:
        tail = Tail(blobs, BATCH, 1)
        assert len(tail.read(100)) == 1
        tail.close()
    else:
        await writer.sync()
    assert [folder.name for folder in folders] == [BATCH]
    await writer.close()
