"""Whoever loses his turn and writes on: no line is given out twice or passed over, and no two orders are ever seen.

Holders take turns at any moment, as if each lease had run out, and go on in steps as if frozen in between: they fold
the journal, begin a segment, append, close it, give the turn back. Readers look, ask the row and read in steps too.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backfill.batch import Batch, Dialect, Outcome, State, Usage
from backfill.journal import Finished, Fold, Record, Tail, begin_segment
from backfill.journal.record import encode_record
from backfill.store import LocalBlobs, SegmentFile

LINES = 40
BATCH = "0b5f7a3e-0000-4000-8000-000000000001"
PLACES = st.sampled_from([0, 0, 1, 1, 2, 3])


@dataclass
class Holder:
    """One who took a turn."""

    epoch: int
    is_takeover: bool
    fences: dict[int, int] | None = None
    segment: SegmentFile | None = None
    header_bytes: int = 0
    is_closed: bool = False
    """It writes no more."""
    has_ended: bool = False


@dataclass
class Reader:
    """One who follows the results."""

    tail: Tail
    given: list[Finished]
    row: Batch | None = None


class Journal(RuleBasedStateMachine):
    """One batch."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.blobs = LocalBlobs(self.folder)
        self.epoch = 0
        self.holder: int | None = None
        self.holders: list[Holder] = []
        self.readers: list[Reader] = []
        self.kept = Fold(self.blobs, BATCH, LINES)
        self.bodies = 0
        self.add_reader(0)

    def teardown(self) -> None:
        self.settle()
        for reader in self.readers:
            reader.tail.close()
        for holder in self.holders:
            if holder.segment is not None:
                holder.segment.close()
        self.kept.close()
        shutil.rmtree(self.folder)

    @property
    def row(self) -> Batch:
        return Batch(
            id=BATCH,
            owner="one",
            endpoint="/v1/chat/completions",
            input_file_id="file",
            input_size_bytes=1,
            state=State.IN_PROGRESS,
            created_at_ms=1,
            deadline_at_ms=2,
            dialect=Dialect.OPENAI,
            epoch=self.epoch,
            holder=None if self.holder is None else str(self.holder),
        )

    @rule()
    def take(self) -> None:
        self.epoch += 1
        self.holders.append(Holder(self.epoch, is_takeover=self.holder is not None))
        self.holder = self.epoch

    @precondition(lambda self: self.holders)
    @rule(place=PLACES)
    def fold(self, place: int) -> None:
        holder = self.find(place)
        if holder.fences is None and not holder.is_closed:
            fold = Fold(self.blobs, BATCH, LINES)
            fold.refresh()
            holder.fences = fold.fences
            fold.close()
            # As `dispatch.open_turn` does.
            holder.is_closed = max(holder.fences, default=0) >= holder.epoch

    @precondition(lambda self: self.holders)
    @rule(place=PLACES)
    def begin(self, place: int) -> None:
        holder = self.find(place)
        if holder.fences is not None and holder.segment is None and not holder.is_closed:
            segment = holder.segment = begin_segment(self.blobs, BATCH, holder.epoch, holder.fences)
            holder.header_bytes = segment.size_bytes

    @precondition(lambda self: self.holders)
    @rule(place=PLACES, line=st.integers(0, LINES - 1), part=st.sampled_from([1.0, 1.0, 1.0, 0.5]))
    def append(self, place: int, line: int, part: float) -> None:
        holder = self.find(place)
        if holder.segment is not None and not holder.is_closed:
            self.bodies += 1
            body = b"%d" % self.bodies
            data = encode_record(Record(line, Outcome.ANSWERED, 200, 1, Usage(1, 1), self.bodies, 1, body))
            holder.segment.write(data[: round(len(data) * part)])
            # A torn record ends a segment.
            holder.is_closed = part < 1

    @precondition(lambda self: self.holders)
    @rule(place=PLACES)
    def give_back(self, place: int) -> None:
        holder = self.find(place)
        if holder.has_ended or (holder.segment is None and holder.fences is None):
            return
        holder.has_ended = True
        is_fenced = holder.segment is not None or not holder.is_takeover
        if holder.segment is not None:
            holder.is_closed = True
            if holder.segment.size_bytes <= holder.header_bytes and not holder.is_takeover:
                holder.segment.discard()
            holder.segment.close()
        # Without one it was cut off between its fold and its segment, and gives back what it has not begun.
        holder.is_closed = True
        if holder.epoch == self.epoch and is_fenced:
            self.holder = None

    @rule(after=st.integers(0, 6))
    def add_reader(self, after: int) -> None:
        given = self.readers[0].given[:after] if self.readers else []
        self.readers.append(Reader(Tail(self.blobs, BATCH, LINES, len(given), is_shared=True), [*given]))

    @rule(place=PLACES)
    def look(self, place: int) -> None:
        reader = self.readers[place % len(self.readers)]
        if reader.tail.is_through:
            reader.tail.look()
            reader.row = None

    @rule(place=PLACES)
    def ask(self, place: int) -> None:
        self.readers[place % len(self.readers)].row = self.row

    @rule(place=PLACES)
    def read(self, place: int) -> None:
        reader = self.readers[place % len(self.readers)]
        if reader.row is not None and reader.tail.is_through and reader.tail.is_settled(reader.row):
            reader.tail.begin_pass()
            reader.row = None
            while found := reader.tail.read(1):
                reader.given += found

    @rule(place=PLACES)
    def follow(self, place: int) -> None:
        """All three at once."""
        self.look(place)
        self.ask(place)
        self.read(place)

    @rule()
    def count(self) -> None:
        """What is shown of the progress may be ahead of what counts, and comes right."""
        self.kept.refresh()

    @invariant()
    def each_line_is_given_once_and_in_one_order(self) -> None:
        longest = max((reader.given for reader in self.readers), key=len)
        assert len({finished.line for finished in longest}) == len(longest)
        for reader in self.readers:
            assert reader.given == longest[: len(reader.given)]

    def find(self, place: int) -> Holder:
        """The newer ones as often as all others."""
        return self.holders[-1 - place % len(self.holders)]

    def settle(self) -> None:
        """A last turn fences out who is left, and all readers come to the same end as every fold."""
        self.take()
        self.fold(0)
        self.begin(0)
        self.append(0, 0, 1.0)
        self.give_back(0)
        for holder in self.holders[:-1]:
            if holder.segment is not None and not holder.is_closed:
                holder.segment.write(
                    encode_record(Record(LINES - 1, Outcome.ANSWERED, 200, 1, Usage(1, 1), 1, 1, b"late"))
                )
        self.add_reader(0)
        for place in range(len(self.readers)):
            self.look(place)
            self.ask(place)
            self.read(place)
        self.each_line_is_given_once_and_in_one_order()
        self.kept.refresh()
        whole = self.readers[-1].given
        for reader in self.readers:
            assert reader.given == whole
        assert self.kept.counts.done == len(whole)
        for finished in whole:
            entry = self.kept.find(finished.line)
            assert entry is not None
            assert self.kept.read_body(entry) == finished.body != b"late"


TestJournal = Journal.TestCase
TestJournal.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
