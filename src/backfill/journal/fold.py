"""Reading a journal: which lines are done, where their answers lie, and what it all adds up to.

A fold may be refreshed while segments still grow; it reads only what came since. Segments are read in the order of
their epochs, as far as they count (`chain`), and the first record of a line counts. Nothing on disk is ever changed by
reading: a torn tail stays where it is and is not looked past.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from backfill.batch import Counts, Outcome, UsageRow
from backfill.journal.chain import Chain, SegmentName
from backfill.journal.ledger import Ledger
from backfill.journal.line_models import LineModels
from backfill.journal.record import StoredRecord
from backfill.journal.segment import SegmentReader  # noqa: TC001 - of what is kept here
from backfill.store import Blobs

__all__ = ["Entry", "Fold"]


# Asked once a line at delivery, where the enum's own look-up would show.
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}


class Entry(NamedTuple):
    """Where one line's record lies."""

    outcome: Outcome
    status: int
    segment: int
    body_offset: int
    body_length: int
    audio_ms: int = 0


class Fold:
    """The state of a batch, as its journal tells it. Blocks on disk reads: call it in a worker thread."""

    def __init__(
        self,
        blobs: Blobs,
        batch_id: str,
        lines: int,
        models: LineModels | None = None,
        *,
        keeps_times: bool = False,
        slice_number: int | None = None,
    ) -> None:
        """Without `models`, what was used is that of one model without a name.

        `slice_number`: of one slice only, or of a batch that was not cut (0); None: of all there is.
        """
        self._lines = lines
        self._models = models or LineModels.unknown(lines)
        self._keeps_times = keeps_times
        self._slice_number = slice_number
        self._blobs = blobs
        self._batch_id = batch_id
        self._begin()

    def _begin(self) -> None:
        lines = self._lines
        self._chain = Chain(self._blobs, self._batch_id, self._slice_number)
        self._counted: dict[SegmentName, SegmentReader] = {}
        """Those that were read, the oldest of each slice first."""
        self._segments: list[SegmentReader] = []
        self._number_of: dict[SegmentName, int] = {}
        self.outcomes = bytearray(lines)
        """One byte a line: 0, or the number of its `Outcome`."""
        self.finished_at_ms = array("Q", bytes(8 * lines)) if self._keeps_times else None
        """When each line was finished, if that was asked for; 0: it is not."""
        self._statuses = array("H", bytes(2 * lines))
        self._segment_of = array("H", bytes(2 * lines))
        self._body_offsets = array("Q", bytes(8 * lines))
        self._body_lengths = array("I", bytes(4 * lines))
        self._audio_ms: array[int] | None = None
        """None while no line has any."""
        self._ledger = Ledger(self._models)

    def refresh(self) -> None:
        """Take in every record written since the last time."""
        counted = self._chain.look()
        if not counted.keys() >= self._counted.keys() or any(segment.is_overrun for segment in self._counted.values()):
            # Records were taken in of a holder who had lost his turn, from behind where the next one found the end.
            self.close()
            self._begin()
            counted = self._chain.look()
        self._counted = counted
        for name, segment in counted.items():
            number = self._number_of.get(name)
            if number is None:
                self._segments.append(segment)
                number = self._number_of[name] = len(self._segments) - 1
            for records in segment.read_pieces():
                self._take(records, number)

    @property
    def fences(self) -> dict[int, int]:
        """Epoch -> how far that segment was read, for the header of the next one of the batch or the one slice."""
        return {name.epoch: segment.end_bytes for name, segment in self._counted.items()}

    @property
    def counts(self) -> Counts:
        """Lines by outcome, and the tokens they cost; each line counted once."""
        return self._ledger.count(self._lines)

    @property
    def usage(self) -> tuple[UsageRow, ...]:
        """What was used, for each model and hour; each line counted once."""
        return self._ledger.rows

    @property
    def passed_over(self) -> list[tuple[str, int]]:
        """The keys of segments that do not end in a whole record, and how many bytes at their end were not read."""
        return [(segment.key, segment.passed_over_bytes) for segment in self._segments if segment.passed_over_bytes]

    def find(self, line: int) -> Entry | None:
        """Where the line's record lies; None while it has none."""
        outcome = self.outcomes[line]
        if not outcome:
            return None
        return Entry(
            _OUTCOMES[outcome],
            self._statuses[line],
            self._segment_of[line],
            self._body_offsets[line],
            self._body_lengths[line],
            0 if self._audio_ms is None else self._audio_ms[line],
        )

    def read_body(self, entry: Entry) -> bytes:
        """The body of a record."""
        return self._segments[entry.segment].read_body(entry.body_offset, entry.body_length)

    def read_answer(self, line: int) -> tuple[int, bytes]:
        """Status and body of a line that has its record. Asked once a line at delivery, where an `Entry` would show."""
        segment = self._segments[self._segment_of[line]]
        return self._statuses[line], segment.read_body(self._body_offsets[line], self._body_lengths[line])

    def close(self) -> None:
        """Give all descriptors back."""
        self._chain.close()

    def _take(self, records: Sequence[StoredRecord], segment: int) -> None:
        outcomes, statuses, segment_of = self.outcomes, self._statuses, self._segment_of
        body_offsets, body_lengths, add = self._body_offsets, self._body_lengths, self._ledger.add
        finished_at_ms = self.finished_at_ms
        for record in records:
            line = record.line
            if line >= self._lines or outcomes[line]:
                continue
            outcomes[line] = record.outcome
            statuses[line] = record.status
            segment_of[line] = segment
            body_offsets[line] = record.body_offset
            body_lengths[line] = record.body_length
            if record.audio_ms:
                self._note_audio(record)
            add(record)
            if finished_at_ms is not None:
                finished_at_ms[line] = record.finished_at_ms

    def _note_audio(self, record: StoredRecord) -> None:
        if self._audio_ms is None:
            self._audio_ms = array("I", bytes(4 * self._lines))
        self._audio_ms[record.line] = record.audio_ms
