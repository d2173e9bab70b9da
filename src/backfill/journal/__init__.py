"""The batch's append-only record of final outcomes: append, group commit, replay, counts. A record never changes."""

from backfill.journal.fold import Entry, Fold
from backfill.journal.progress import Progress
from backfill.journal.record import Record, StoredRecord
from backfill.journal.tail import Finished, Tail
from backfill.journal.writer import SegmentWriter

__all__ = ["Entry", "Finished", "Fold", "Progress", "Record", "SegmentWriter", "StoredRecord", "Tail"]
