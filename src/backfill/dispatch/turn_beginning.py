"""What a turn begins with: the index of its input, what its journal says, a plan of what is left, and a segment."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from backfill.batch import Outcome
from backfill.dispatch.cut_inputs import CutInput, CutInputs, read_index
from backfill.dispatch.invalid_lines import InvalidLines, find_invalid_lines
from backfill.dispatch.unsendable import Unsendable, find_unsendable
from backfill.index import LineIndex
from backfill.journal import Fold, begin_segment
from backfill.plan import Need, Plan, plan_lines, sum_needs
from backfill.store import BlobReader, Blobs, SegmentFile, content_key
from backfill.turns import Turn

__all__ = ["Begun", "begin_turn"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Begun:
    """What a turn begins with."""

    index: LineIndex
    cut: CutInput | None
    """All slices, if the turn is on one of them; for the turn to keep."""
    fold: Fold
    """What the journal says became of each line; for the caller to close."""
    invalid: InvalidLines
    unsendable: Sequence[Unsendable]
    plan: Plan
    needs: dict[int, Need]
    source: BlobReader
    segment: SegmentFile


def begin_turn(blobs: Blobs, turn: Turn, cuts: CutInputs, *, reuse: bool) -> Begun:
    """All that has to be read and made before a turn can send; blocks on disk."""
    batch, number = turn.batch, turn.slice_number
    with ExitStack() as undo:
        cut = cuts.find(batch) if number else None
        index = cut.index if cut is not None else read_index(blobs, batch)
        fold = _recover(blobs, turn, index)
        undo.callback(fold.close)
        outcomes = cut.mask(number, fold.outcomes) if cut is not None else bytearray(fold.outcomes)
        invalid = find_invalid_lines(index, outcomes, batch)
        for line in invalid.lines:
            outcomes[line] = Outcome.REFUSED
        unsendable = find_unsendable(index, outcomes, batch)
        for those in unsendable:
            for line in those.lines:
                outcomes[line] = Outcome.REFUSED
        plan = plan_lines(index, outcomes, reuse=reuse)
        source = undo.enter_context(blobs.open(content_key(batch.input_file_id)))
        segment = begin_segment(blobs, batch.id, turn.epoch, fold.fences, slice_number=number, durably=turn.is_takeover)
        undo.pop_all()
        return Begun(index, cut, fold, invalid, unsendable, plan, sum_needs(index, plan), source, segment)


def _recover(blobs: Blobs, turn: Turn, index: LineIndex) -> Fold:
    """What the journal says became of each line of the turn; for the caller to close."""
    fold = Fold(blobs, turn.batch.id, len(index), slice_number=turn.slice_number)
    try:
        fold.refresh()
        for segment, size_bytes in fold.passed_over:
            _report_damage(segment, size_bytes)
    except BaseException:
        fold.close()
        raise
    return fold


@functools.lru_cache(maxsize=1024)
def _report_damage(segment: str, size_bytes: int) -> None:
    """Once: a segment is read again by every later turn, and changes no more."""
    message = "journal segment ends in bytes that are no record; the lines that they may have held are done again"
    _log.warning(message, segment=segment, size_bytes=size_bytes)
