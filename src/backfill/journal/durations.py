"""How long each line took, for whoever asks after the end."""

from array import array

from backfill.errors import NotFound
from backfill.journal.segment import SegmentReader
from backfill.store import Blobs, journal_prefix

__all__ = ["read_durations"]


def read_durations(blobs: Blobs, batch_id: str, lines: int) -> "array[int]":
    """Milliseconds of the try that counted, a number a line; 0 for lines without a record. Blocks on disk."""
    durations = array("I", bytes(4 * lines))
    is_known = bytearray(lines)
    for key in blobs.list_segments(journal_prefix(batch_id)):
        try:
            segment = SegmentReader(blobs, key, batch_id)
        except NotFound:
            continue
        try:
            for record in segment.read_on():
                if record.line < lines and not is_known[record.line]:
                    is_known[record.line] = 1
                    durations[record.line] = record.duration_ms
        finally:
            segment.close()
    return durations
