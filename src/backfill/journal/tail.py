"""Following a journal: every finished line with its body, in the order in which the lines finished.

That order never changes. Segments come by epoch, each from the front and as far as it counts (`chain`), and a line
counts where its record stands first. What is given out is on disk before. So the number of lines somebody has seen says
for ever where to go on.

How far the newest segment counts is not certain while others may take turns: its holder may have lost his turn, and the
next one be about to write where it ends. So somebody who reads beside other processes notes how far it goes (`look`),
then asks the batch's row whether that turn is still the last one (`is_settled`), and only then reads up to there.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from backfill.batch import Batch, Outcome
from backfill.errors import StoreCorrupt
from backfill.journal.chain import Chain, SegmentName
from backfill.journal.record import StoredRecord
from backfill.journal.segment import SegmentReader
from backfill.store import Blobs

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

    def __init__(self, blobs: Blobs, batch_id: str, lines: int, after: int = 0, *, is_shared: bool = False) -> None:
        """`is_shared`: other processes may take turns on the batch, so that `look` goes before what is read."""
        self.to_skip = after
        """How many lines are still to be passed over."""
        self._batch_id = batch_id
        self._is_shared = is_shared
        self._chain = Chain(blobs, batch_id, 0)
        self._seen: list[tuple[SegmentReader, int]] = []
        self._newest = 0
        self._is_finished = bytearray(lines)
        self._pass: Generator[tuple[SegmentReader, StoredRecord], None, None] | None = None

    def look(self) -> None:
        """Note how far the journal goes now."""
        counted = self._chain.look()
        self._seen = [(segment, segment.measure()) for segment in counted.values()]
        self._newest = _find_newest(counted)
        if any(segment.is_overrun for segment in counted.values()):
            message = f"The journal of batch {self._batch_id} counts less far than it was read."
            raise StoreCorrupt(message)

    def is_settled(self, batch: Batch) -> bool:
        """Whether what was noted stays as it is, by the row as it was read after `look`.

        It does while the turn that wrote the newest segment is the last one: whoever takes the next looks after that at
        where it ends. And it does if nobody has a turn, since then nobody writes; but a newer segment may be there by
        now, which says where the others end.
        """
        if batch.epoch == self._newest:
            return True
        return batch.holder is None and _find_newest(self._chain.look()) == self._newest

    def begin_pass(self) -> None:
        """From now on read what was noted, up to there."""
        self._pass = self._read_on(self._seen)

    def read(self, size_bytes: int) -> list[Finished]:
        """The next finished lines, about `size_bytes` of them; none if no other line has finished yet."""
        found: list[Finished] = []
        size = 0
        if self._pass is None:
            if self._is_shared:
                return found
            self.look()
            self.begin_pass()
        assert self._pass is not None  # noqa: S101 - it was begun
        while size < size_bytes:
            following = next(self._pass, None)
            if following is None:
                self._pass = None
                break
            segment, record = following
            if self.to_skip:
                self.to_skip -= 1
                continue
            body = segment.read_body(record.body_offset, record.body_length)
            found.append(Finished(record.line, record.outcome, record.status, body, record.duration_ms))
            size += len(body)
        return found

    @property
    def is_through(self) -> bool:
        """Whether all that was noted has been read."""
        return self._pass is None

    def find_unfinished(self) -> Iterator[int]:
        """The lines that have no record so far, in the order of the input."""
        return (line for line, finished in enumerate(self._is_finished) if not finished)

    def close(self) -> None:
        """Give all descriptors back."""
        if self._pass is not None:
            self._pass.close()
        self._chain.close()

    def _read_on(
        self, seen: list[tuple[SegmentReader, int]]
    ) -> Generator[tuple[SegmentReader, StoredRecord], None, None]:
        """One pass over what was written since the last one."""
        for segment, end_bytes in seen:
            for record in segment.read_on(durably=True, end_bytes=end_bytes):
                if record.line < len(self._is_finished) and not self._is_finished[record.line]:
                    self._is_finished[record.line] = 1
                    yield segment, record


def _find_newest(names: Iterable[SegmentName]) -> int:
    return max((name.epoch for name in names), default=0)
