"""Why lines of a batch failed, from its journal: each failed line as its error file tells of it, and groups of them."""

from collections.abc import Iterator
from typing import NamedTuple

from backfill.batch import Batch, Outcome, State
from backfill.errors import Conflict
from backfill.index import LineIndex
from backfill.journal import Fold
from backfill.store import Blobs, index_key
from backfill.wire import is_request
from backfill.wire.failures import Failure, FailureGroup, name_group, normalise, read_failed_line
from backfill.wire.results import render_failure, render_rest

__all__ = ["ALL_FAILED", "FailureChoice", "find_failed_offsets", "group_failures"]

_CUSTOM_IDS = 3
GROUPS_MAX = 200
_OTHERS = "others"


class FailureChoice(NamedTuple):
    """Which failed lines are meant; None: whatever it is."""

    code: str | None = None
    group: str | None = None

    def takes(self, failure: Failure) -> bool:
        """Whether the line is one of them."""
        if self.code is not None and failure.code != self.code:
            return False
        return self.group is None or name_group(failure.code, normalise(failure.message)) == self.group


ALL_FAILED = FailureChoice()


class _Growing:
    """A group while it is counted."""

    __slots__ = ("count", "custom_ids", "example", "first_at_ms", "last_at_ms")

    def __init__(self, example: str) -> None:
        self.example = example
        self.count = 0
        self.custom_ids: list[str] = []
        self.first_at_ms: int | None = None
        self.last_at_ms: int | None = None

    def add(self, custom_id: str | None, at_ms: int | None) -> None:
        self.count += 1
        if custom_id is not None and len(self.custom_ids) < _CUSTOM_IDS:
            self.custom_ids.append(custom_id)
        if at_ms:
            self.first_at_ms = min(at_ms, self.first_at_ms or at_ms)
            self.last_at_ms = max(at_ms, self.last_at_ms or at_ms)


def group_failures(blobs: Blobs, batch: Batch) -> list[FailureGroup]:
    """The failed lines of a batch by code and normalised message, largest group first.

    Of a batch that has not ended those that have failed so far. Blocks on disk: call it in a worker thread.

    Raises:
        NotFound: the input file is gone.
        Conflict: the journal of an ended batch was removed.

    """
    if batch.state is State.FAILED and batch.started_at_ms is None:
        return []
    groups: dict[tuple[str, str], _Growing] = {}
    for failure, _, at_ms in _walk(blobs, batch):
        key = failure.code, normalise(failure.message)
        if key not in groups and len(groups) >= GROUPS_MAX:
            key = (_OTHERS, "")
        groups.setdefault(key, _Growing(failure.message)).add(failure.custom_id, at_ms)
    found = [
        FailureGroup(
            id=name_group(code, reason),
            code=code,
            reason=reason,
            example=group.example,
            count=group.count,
            custom_ids=tuple(group.custom_ids),
            first_at_ms=group.first_at_ms,
            last_at_ms=group.last_at_ms,
        )
        for (code, reason), group in groups.items()
    ]
    return sorted(found, key=lambda group: -group.count)


def find_failed_offsets(blobs: Blobs, batch: Batch, choice: FailureChoice) -> Iterator[int]:
    """Where the bodies of the failed lines that are meant lie in the input, in order; raises as `group_failures`.

    Lines that are no requests are left out: they would fail again, or be a second one of their custom id.
    """
    if choice == ALL_FAILED:
        yield from _walk_offsets(blobs, batch)
        return
    for failure, offset, _ in _walk(blobs, batch):
        if offset is not None and choice.takes(failure):
            yield offset


def _walk(blobs: Blobs, batch: Batch) -> Iterator[tuple[Failure, int | None, int | None]]:
    """Each failed line: why, where its body lies in the input if it is a request, and when it failed."""
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    fold = Fold(blobs, batch.id, len(index), keeps_times=True)
    try:
        _refresh(fold, batch)
        for line, outcome in enumerate(fold.outcomes):
            if outcome == Outcome.ANSWERED or (not outcome and not batch.state.is_final):
                continue
            entry = fold.find(line)
            custom_id = index.custom_id_json(line)
            if entry is None:
                rendered = render_rest(batch, line, custom_id)
            else:
                body = fold.read_body(entry)
                rendered = render_failure(batch, line, custom_id, entry.outcome, entry.status, body)
            at_ms = fold.finished_at_ms[line] if fold.finished_at_ms else None
            offset = index.body_offsets[line] if is_request(index.shapes[line]) else None
            yield read_failed_line(rendered), offset, at_ms or None
    finally:
        fold.close()


def _walk_offsets(blobs: Blobs, batch: Batch) -> Iterator[int]:
    """As `_walk`, without a look at why."""
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    fold = Fold(blobs, batch.id, len(index))
    try:
        _refresh(fold, batch)
        lines = zip(fold.outcomes, index.body_offsets, index.shapes, strict=True)
        yield from (offset for outcome, offset, shape in lines if outcome != Outcome.ANSWERED and is_request(shape))
    finally:
        fold.close()


def _refresh(fold: Fold, batch: Batch) -> None:
    fold.refresh()
    if batch.state.is_final and fold.counts.answered < batch.counts.answered:
        message = f"The journal of batch {batch.id} was removed (retention.journals_days); upload what failed again."
        raise Conflict(message, code="journal_removed")
