"""What a turn begins with: the index of its input, what its journal says, a plan of what is left, and a segment."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from backfill.batch import Outcome
from backfill.dispatch.invalid_lines import InvalidLines, find_invalid_lines
from backfill.dispatch.unsendable import Unsendable, find_unsendable
from backfill.errors import StoreCorrupt
from backfill.index import LineIndex
from backfill.journal import Fold, begin_segment
from backfill.plan import Need, Plan, plan_lines, sum_needs
from backfill.store import BlobReader, Blobs, SegmentFile, content_key, index_key
from backfill.turns import Turn

__all__ = ["Begun", "begin_turn"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Begun:
    """What a turn begins with."""

    index: LineIndex
    fold: Fold
    """What the journal says became of each line; for the caller to close."""
    invalid: InvalidLines
    unsendable: Sequence[Unsendable]
    plan: Plan
    needs: dict[int, Need]
    source: BlobReader
    segment: SegmentFile


def begin_turn(blobs: Blobs, turn: Turn, *, reuse: bool) -> Begun:
    """All that has to be read and made before a turn can send; blocks on disk."""
    batch = turn.batch
    with ExitStack() as undo:
        index, fold = _recover(blobs, turn)
        undo.callback(fold.close)
        outcomes = bytearray(fold.outcomes)
        invalid = find_invalid_lines(index, outcomes, batch)
        for line in invalid.lines:
            outcomes[line] = Outcome.REFUSED
        unsendable = find_unsendable(index, outcomes, batch)
        for those in unsendable:
            for line in those.lines:
                outcomes[line] = Outcome.REFUSED
        plan = plan_lines(index, outcomes, reuse=reuse)
        source = undo.enter_context(blobs.open(content_key(batch.input_file_id)))
        segment = begin_segment(blobs, batch.id, turn.epoch, fold.fences, durably=turn.is_takeover)
        undo.pop_all()
        return Begun(index, fold, invalid, unsendable, plan, sum_needs(index, plan), source, segment)


def _recover(blobs: Blobs, turn: Turn) -> tuple[LineIndex, Fold]:
    """The index of the input, and what the journal says became of each line; the fold is for the caller to close."""
    batch = turn.batch
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    if len(index) != batch.counts.total:
        message = f"The index of file {batch.input_file_id} has {len(index)} lines, its row {batch.counts.total}."
        raise StoreCorrupt(message)
    fold = Fold(blobs, batch.id, len(index))
    try:
        fold.refresh()
        for segment, size_bytes in fold.passed_over:
            _report_damage(segment, size_bytes)
    except BaseException:
        fold.close()
        raise
    return index, fold


@functools.lru_cache(maxsize=1024)
def _report_damage(segment: str, size_bytes: int) -> None:
    """Once: a segment is read again by every later turn, and changes no more."""
    message = "journal segment ends in bytes that are no record; the lines that they may have held are done again"
    _log.warning(message, segment=segment, size_bytes=size_bytes)
