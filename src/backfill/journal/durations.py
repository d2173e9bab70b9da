"""How long each line took, for whoever asks after the end."""

from array import array

from backfill.journal.chain import Chain
from backfill.store import Blobs

__all__ = ["read_durations"]


def read_durations(blobs: Blobs, batch_id: str, lines: int) -> "array[int]":
    """Milliseconds of the try that counted, a number a line; 0 for lines without a record. Blocks on disk."""
    durations = array("I", bytes(4 * lines))
    is_known = bytearray(lines)
    chain = Chain(blobs, batch_id)
    try:
        for segment in chain.look().values():
            for record in segment.read_on():
                if record.line < lines and not is_known[record.line]:
                    is_known[record.line] = 1
                    durations[record.line] = record.duration_ms
    finally:
        chain.close()
    return durations
