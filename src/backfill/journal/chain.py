"""Which segments of a journal count, and how far each.

The holder of a turn writes into the header of its segment how many bytes of each older one count: those that it found
when its turn was in the batch's row already. So whoever lost his turn without knowing, and writes on, writes behind the
fence, and what he begins only then is named by no header. The newest whole header says it all, since it repeats what
the one before it says. `docs/journal.md` tells why no reader ever sees two orders.

A batch that was cut has such a chain for each slice, under the same rules; they know nothing of each other.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from backfill.errors import NotFound
from backfill.journal.segment import SegmentReader
from backfill.store import Blobs, find_turn, journal_prefix

__all__ = ["Chain", "SegmentName"]


class SegmentName(NamedTuple):
    """Of which turn a segment is; in the order in which segments are read."""

    slice_number: int
    """From 1; 0: of the whole batch, as it was not cut."""
    epoch: int


class Chain:
    """The segments of one batch, kept open. Blocks on disk: call it in a worker thread."""

    def __init__(self, blobs: Blobs, batch_id: str, slice_number: int | None = None) -> None:
        """`slice_number`: of one slice only, or of a batch that was not cut (0); None: of all there are."""
        self._blobs = blobs
        self._batch_id = batch_id
        self._slice_number = slice_number
        self._segments: dict[SegmentName, SegmentReader] = {}

    def look(self) -> dict[SegmentName, SegmentReader]:
        """The segments that count now, each with its limit: slice by slice, the oldest of each first."""
        self._open_new()
        counted: dict[SegmentName, SegmentReader] = {}
        for _, names in groupby(sorted(self._segments), key=lambda name: name.slice_number):
            counted |= reversed([*self._count([*names])])
        return counted

    def close(self) -> None:
        """Give all descriptors back."""
        for segment in self._segments.values():
            segment.close()

    def _count(self, names: list[SegmentName]) -> Iterator[tuple[SegmentName, SegmentReader]]:
        """Those of one slice that count, the newest first."""
        fences = None
        for name in reversed(names):
            segment = self._segments[name]
            if fences is None:
                try:
                    header = segment.header
                except NotFound:
                    # As below, a moment later: an object store lets nobody read on in what is removed.
                    self._segments.pop(name).close()
                    continue
                if header is None:
                    continue
                segment.limit_bytes = None
                fences = header.fences
            elif name.epoch in fences:
                segment.limit_bytes = fences[name.epoch]
            else:
                continue
            yield name, segment

    def _open_new(self) -> None:
        for key in self._blobs.list_segments(journal_prefix(self._batch_id)):
            turn = find_turn(key)
            if turn is None or self._slice_number not in (None, turn[0]):
                continue
            name = SegmentName(*turn)
            if name in self._segments:
                continue
            try:
                self._segments[name] = SegmentReader(self._blobs, key, self._batch_id, name.slice_number)
            except NotFound:
                continue  # its writer has removed it, as nothing stood in it
