from .durations import read_durations
from .fold import Entry, Fold
from .holds import JournalHold, JournalHolds
from .line_models import LineModels
from .progress import Progress
from .record import Record, StoredRecord
from .sliced_tail import SlicedTail
from .tail import Finished, Tail
from .writer import SegmentWriter, SyncGroup, begin_segment, fence

__all__ = [
    "Entry",
    "Finished",
    "Fold",
    "JournalHold",
    "JournalHolds",
    "LineModels",
    "Progress",
    "Record",
    "SegmentWriter",
    "SlicedTail",
    "StoredRecord",
    "SyncGroup",
    "Tail",
    "begin_segment",
    "fence",
    "read_durations",
]
