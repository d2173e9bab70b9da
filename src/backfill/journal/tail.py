"""Following a journal: every finished line with its body, in the order in which the lines finished.

That order never changes. Segments come by epoch and each is read from the front; a segment is begun only when the
one before it grows no more (`docs/journal.md`), and a line counts where its record stands first. What is given out is
on disk before. So the number of lines somebody has seen says for ever where to go on.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple

from backfill.batch import Outcome
from backfill.errors import NotFound
from backfill.journal.record import StoredRecord
from backfill.journal.segment import SegmentReader
from backfill.store import Blobs, journal_prefix

__all__ = ["Finished", "Tail"]


class Finished(NamedTuple):
    """A line that has its outcome, and the engine's answer."""

    line: int
    outcome: Outcome
    status: int
    body: bytes
    duration_ms: int


class Tail:
    """The finished lines of one batch from behind the first `after` on. Blocks on disk: call it in a worker thread."""

    def __init__(self, blobs: Blobs, batch_id: str, lines: int, after: int = 0) -> None:
        self.to_skip = after
        """How many lines are still to be passed over."""
        self._blobs = blobs
        self._batch_id = batch_id
        self._segments: dict[str, SegmentReader] = {}
        self._is_finished = bytearray(lines)
        self._pass = self._read_on()

    def read(self, size_bytes: int) -> list[Finished]:
        """The next finished lines, about `size_bytes` of them; none if no other line has finished yet."""
        found: list[Finished] = []
        size = 0
        while size < size_bytes:
            following = next(self._pass, None)
            if following is None:
                self._pass = self._read_on()
                break
            segment, record = following
            if self.to_skip:
                self.to_skip -= 1
                continue
            body = segment.read_body(record.body_offset, record.body_length)
            found.append(Finished(record.line, record.outcome, record.status, body, record.duration_ms))
            size += len(body)
        return found

    def find_unfinished(self) -> Iterator[int]:
        """The lines that have no record so far, in the order of the input."""
        return (line for line, finished in enumerate(self._is_finished) if not finished)

    def close(self) -> None:
        """Give all descriptors back."""
        self._pass.close()
        for segment in self._segments.values():
            segment.close()

    def _read_on(self) -> Generator[tuple[SegmentReader, StoredRecord], None, None]:
        """One pass over what was written since the last one."""
        for key in self._blobs.list_segments(journal_prefix(self._batch_id)):
            segment = self._segments.get(key)
            if segment is None:
                try:
                    segment = self._segments[key] = SegmentReader(self._blobs, key, self._batch_id)
                except NotFound:
                    continue  # its writer has removed it, as nothing stood in it
            for record in segment.read_on(durably=True):
                if record.line < len(self._is_finished) and not self._is_finished[record.line]:
                    self._is_finished[record.line] = 1
                    yield segment, record
