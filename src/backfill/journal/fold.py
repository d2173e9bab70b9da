"""Reading a journal: which lines are done, where their answers lie, and what it all adds up to.

A fold may be refreshed while segments still grow; it reads only what came since. Segments are read in the order of
their epochs and the first record of a line counts, so a holder that was fenced out and wrote on changes nothing that
was folded before. Nothing on disk is ever changed by reading: a torn tail stays where it is and is not looked past.
"""

from array import array
from typing import NamedTuple

from backfill.batch import Counts, Outcome, Usage
from backfill.journal.record import StoredRecord
from backfill.journal.segment import SegmentReader
from backfill.store import LocalBlobs, journal_prefix

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


class Fold:
    """The state of a batch, as its journal tells it. Blocks on disk reads: call it in a worker thread."""

    def __init__(self, blobs: LocalBlobs, batch_id: str, lines: int) -> None:
        self._blobs = blobs
        self._batch_id = batch_id
        self._segments: list[SegmentReader] = []
        self._number_of: dict[str, int] = {}
        self._lines = lines
        self.outcomes = bytearray(lines)
        """One byte a line: 0, or the number of its `Outcome`."""
        self._statuses = array("H", bytes(2 * lines))
        self._segment_of = array("H", bytes(2 * lines))
        self._body_offsets = array("Q", bytes(8 * lines))
        self._body_lengths = array("I", bytes(4 * lines))
        self._answered = 0
        self._failed = 0
        self._reused = 0
        self._tokens = [0, 0, 0]
        self._reused_tokens = [0, 0, 0]

    def refresh(self) -> None:
        """Take in every record written since the last time."""
        for key in self._blobs.list(journal_prefix(self._batch_id)):
            number = self._number_of.get(key)
            if number is None:
                self._segments.append(SegmentReader(self._blobs, key, self._batch_id))
                number = self._number_of[key] = len(self._segments) - 1
            for record in self._segments[number].read_on():
                self._take(record, number)

    @property
    def counts(self) -> Counts:
        """Lines by outcome, and the tokens they cost; each line counted once."""
        return Counts(
            self._lines,
            self._answered,
            self._failed,
            Usage(*self._tokens),
            self._reused,
            Usage(*self._reused_tokens),
        )

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
        )

    def read_body(self, entry: Entry) -> bytes:
        """The body of a record."""
        return self._segments[entry.segment].read_body(entry.body_offset, entry.body_length)

    def close(self) -> None:
        """Give all descriptors back."""
        for segment in self._segments:
            segment.close()

    def _take(self, record: StoredRecord, segment: int) -> None:
        line, outcome = record.line, record.outcome
        if line >= self._lines or self.outcomes[line]:
            return
        self.outcomes[line] = outcome
        self._statuses[line] = record.status
        self._segment_of[line] = segment
        self._body_offsets[line] = record.body_offset
        self._body_lengths[line] = record.body_length
        if outcome is Outcome.ANSWERED:
            self._answered += 1
        else:
            self._failed += 1
        tokens = self._tokens
        if record.reused:
            self._reused += 1
            tokens = self._reused_tokens
        tokens[0] += record.prompt_tokens
        tokens[1] += record.completion_tokens
        tokens[2] += record.cached_tokens
