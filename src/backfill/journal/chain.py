"""Which segments of a journal count, and how far each.

The holder of a turn writes into the header of its segment how many bytes of each older one count: those that it found
when its turn was in the batch's row already. So whoever lost his turn without knowing, and writes on, writes behind the
fence, and what he begins only then is named by no header. The newest whole header says it all, since it repeats what
the one before it says. `docs/journal.md` tells why no reader ever sees two orders.
"""

from backfill.errors import NotFound
from backfill.journal.segment import SegmentReader
from backfill.store import Blobs, find_epoch, journal_prefix

__all__ = ["Chain"]


class Chain:
    """The segments of one batch, kept open. Blocks on disk: call it in a worker thread."""

    def __init__(self, blobs: Blobs, batch_id: str) -> None:
        self._blobs = blobs
        self._batch_id = batch_id
        self._segments: dict[int, SegmentReader] = {}

    def look(self) -> dict[int, SegmentReader]:
        """Epoch -> segment, of those that count now, oldest first, each with its limit."""
        self._open_new()
        counted: dict[int, SegmentReader] = {}
        fences = None
        for epoch in sorted(self._segments, reverse=True):
            segment = self._segments[epoch]
            if fences is None:
                header = segment.header
                if header is None:
                    continue
                segment.limit_bytes = None
                fences = header.fences
            elif epoch in fences:
                segment.limit_bytes = fences[epoch]
            else:
                continue
            counted[epoch] = segment
        return dict(reversed(counted.items()))

    def close(self) -> None:
        """Give all descriptors back."""
        for segment in self._segments.values():
            segment.close()

    def _open_new(self) -> None:
        for key in self._blobs.list_segments(journal_prefix(self._batch_id)):
            epoch = find_epoch(key)
            if epoch is None or epoch in self._segments:
                continue
            try:
                self._segments[epoch] = SegmentReader(self._blobs, key, self._batch_id)
            except NotFound:
                continue  # its writer has removed it, as nothing stood in it
