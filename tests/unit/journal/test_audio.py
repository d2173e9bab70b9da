"""What was heard stands in the journal, in records that are longer by four bytes; the others are as they ever were."""

import struct
import zlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from backfill.batch import Outcome, Usage
from backfill.journal import Fold, Record, SegmentWriter, Tail
from backfill.journal.record import HEADER_BYTES, encode_record
from backfill.journal.segment import scan_records
from backfill.store import LocalBlobs

BATCH = "0b5f7a3e-0000-4000-8000-000000000001"
COUNTS = st.integers(0, 2**32 - 1)
RECORDS = st.builds(
    Record,
    line=COUNTS,
    outcome=st.sampled_from(Outcome),
    status=st.integers(0, 599),
    tries=st.integers(0, 255),
    usage=st.builds(Usage, COUNTS, COUNTS, COUNTS, st.sampled_from([0, 1, 2**32 - 1]) | COUNTS),
    finished_at_ms=st.integers(0, 2**40),
    duration_ms=COUNTS,
    body=st.binary(max_size=30),
    reused=st.booleans(),
)


def make_record(line: int, usage: Usage) -> Record:
    return Record(line, Outcome.ANSWERED, 200, 1, usage, 1_750_000_000_000, 12, b'{"text":"a"}')


def test_a_record_without_audio_is_as_it_was_before_there_was_any() -> None:
    fields = struct.pack("<IBBHIIIQI", 7, 0x81, 1, 200, 10, 5, 1, 1_750_000_000_000, 12) + b'{"text":"a"}'
    expected = struct.pack("<II", len(fields), zlib.crc32(fields)) + fields
    assert encode_record(replace(make_record(7, Usage(10, 5, 1)), reused=True)) == expected


@given(st.lists(RECORDS, max_size=6), st.integers(0, 200))
def test_what_is_written_is_read_back(records: list[Record], cut: int) -> None:
    whole = [encode_record(record) for record in records]
    data = b"".join(whole)
    kept = data[: max(0, len(data) - cut)]
    found = scan_records(kept, HEADER_BYTES)
    sizes = [len(one) for one in whole]
    assert len(found) == max(number for number in range(len(whole) + 1) if sum(sizes[:number]) <= len(kept))
    for record, stored in zip(records, found, strict=False):
        assert (stored.line, stored.outcome, stored.reused) == (record.line, record.outcome, record.reused)
        used = (stored.prompt_tokens, stored.completion_tokens, stored.cached_tokens, stored.audio_ms)
        assert used == record.usage
        start = stored.body_offset - HEADER_BYTES
        assert kept[start : start + stored.body_length] == record.body


def test_more_than_fits_is_as_much_as_fits() -> None:
    (stored,) = scan_records(encode_record(make_record(0, Usage(2**40, 2**40, 0, 2**40))), 0)
    assert (stored.prompt_tokens, stored.completion_tokens, stored.audio_ms) == (2**32 - 1, 2**32 - 1, 2**32 - 1)


async def test_what_was_heard_is_summed_up_each_line_once(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    first = await SegmentWriter.create(blobs, BATCH, 1)
    first.append(make_record(0, Usage(audio_ms=1500)))
    first.append(make_record(1, Usage(10, 5, 1)))
    first.append(replace(make_record(2, Usage(audio_ms=700)), reused=True))
    await first.close()
    # What a holder that was fenced out wrote on counts no second time.
    late = await SegmentWriter.create(blobs, BATCH, 2)
    late.append(make_record(0, Usage(audio_ms=99_000)))
    late.append(make_record(3, Usage(3, 0, 0, 250)))
    await late.close()
    fold = Fold(blobs, BATCH, 5)
    fold.refresh()
    assert fold.counts.usage == Usage(13, 5, 1, 1750)
    assert fold.counts.reused_usage == Usage(audio_ms=700)
    (row,) = fold.usage
    assert (row.usage, row.reused_usage) == (fold.counts.usage, fold.counts.reused_usage)
    entries = [fold.find(line) for line in range(5)]
    assert [entry and entry.audio_ms for entry in entries] == [1500, 0, 700, 250, None]
    assert all(fold.read_body(entry) == b'{"text":"a"}' for entry in entries if entry)
    fold.close()
    tail = Tail(blobs, BATCH, 5)
    assert [(one.line, one.body) for one in tail.read(10_000)] == [(line, b'{"text":"a"}') for line in range(4)]
