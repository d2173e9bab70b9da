"""Single lines and the course of a batch, from its index and its journal: kept open while somebody looks."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from backfill.batch import Batch, Outcome
from backfill.errors import BackfillError
from backfill.index import LineIndex
from backfill.journal import Fold
from backfill.store import BlobReader, Blobs, content_key, index_key
from backfill.web.dashboard.drawing import Moment

__all__ = ["Course", "JournalViews", "Line", "LinePage"]

_KEPT = 8
_STEPS = 60
PAGE_LINES = 25
_FOUND_MAX = 200
_OUTCOMES = {Outcome.ANSWERED: "answered", Outcome.REFUSED: "refused", Outcome.EXHAUSTED: "failed"}

_Result = TypeVar("_Result")


class Course(NamedTuple):
    """How a batch went so far."""

    moments: tuple[Moment, ...]
    lines_per_s: tuple[float, ...]
    """In as many equal stretches of the time from the first line to the last."""


class Line(NamedTuple):
    """One request, and what became of it."""

    number: int
    """From 1."""
    custom_id: str
    outcome: str
    status: int
    request: bytes
    answer: bytes | None


class LinePage(NamedTuple):
    """Some lines of a batch."""

    lines: tuple[Line, ...]
    total: int
    """How many there are of the kind that was asked for."""
    first: int
    """How many of them lie before these."""
    is_cut: bool = False
    """Whether more were found than are looked through."""


class _View:
    """The open files of one batch. Blocks on disk: ask it in worker threads; one at a time goes in.

    A viewer who goes leaves his thread behind, so that the lock is the thread's and not the viewer's.
    """

    def __init__(self, blobs: Blobs, batch: Batch) -> None:
        self._lock = threading.Lock()
        self._blobs = blobs
        self._batch = batch
        self._index: LineIndex | None = None
        self._fold: Fold | None = None
        self._source: BlobReader | None = None

    def ask(self, question: "Callable[[_View], _Result]") -> _Result:
        """What `question` says to it while nobody else asks."""
        with self._lock:
            return question(self)

    def describe(self, since_ms: int, until_ms: int) -> Course:
        """The course, from the time at which the batch was begun."""
        _, fold = self._open()
        assert fold.finished_at_ms is not None  # noqa: S101 - `_open` asks for them
        times = np.frombuffer(fold.finished_at_ms, dtype=np.uint64)
        times = np.sort(times[times > 0]).astype(np.int64)
        last_ms = max(until_ms, since_ms + 1)
        edges = np.linspace(since_ms, last_ms, _STEPS + 1)
        done = np.searchsorted(times, edges, side="right")
        per_s = np.diff(done) / ((last_ms - since_ms) / _STEPS / 1000)
        moments = tuple(Moment(int(at), int(count)) for at, count in zip(edges, done, strict=True))
        return Course(moments, tuple(map(float, per_s)))

    def read_page(self, first: int, kind: str, sought: str) -> LinePage:
        """Lines of a kind (an outcome's word, or "" for all), or those whose custom id has this text."""
        index, fold = self._open()
        numbers: Sequence[int] = range(len(index))
        is_cut = False
        if sought:
            numbers, is_cut = self._find(index, sought)
        if kind:
            numbers = [line for line in numbers if _name_outcome(fold, line) == kind]
        shown = numbers[first : first + PAGE_LINES]
        return LinePage(tuple(self._read_line(index, fold, line) for line in shown), len(numbers), first, is_cut)

    def close(self) -> None:
        """Give all descriptors back, once nobody asks; whoever asks later opens them again."""
        with self._lock:
            if self._fold is not None:
                self._fold.close()
            if self._source is not None:
                self._source.close()
            self._fold = self._source = None

    def _open(self) -> tuple[LineIndex, Fold]:
        batch = self._batch
        if self._index is None:
            self._index = LineIndex.decode(self._blobs.read(index_key(batch.input_file_id)))
        if self._fold is None:
            self._fold = Fold(self._blobs, batch.id, len(self._index), keeps_times=True)
        self._fold.refresh()
        return self._index, self._fold

    def _find(self, index: LineIndex, sought: str) -> tuple[list[int], bool]:
        wanted = msgspec.json.encode(sought)[1:-1]
        found: list[int] = []
        for line in range(len(index)):
            if wanted in index.custom_id_json(line):
                if len(found) == _FOUND_MAX:
                    return found, True
                found.append(line)
        return found, False

    def _read_line(self, index: LineIndex, fold: Fold, line: int) -> Line:
        if self._source is None:
            self._source = self._blobs.open(content_key(self._batch.input_file_id))
        request = self._source.read(index.body_offsets[line], index.body_lengths[line])
        entry = fold.find(line)
        answer = None if entry is None else fold.read_body(entry)
        custom_id: str = msgspec.json.decode(index.custom_id_json(line)) or ""
        status = 0 if entry is None else entry.status
        return Line(line + 1, custom_id, _name_outcome(fold, line), status, request, answer)


class JournalViews:
    """The batches that somebody looked at last."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._views: OrderedDict[str, _View] = OrderedDict()

    async def describe(self, batch: Batch, now_ms: int) -> Course:
        """How the batch went; raises NotFound once its input file is gone."""
        since_ms = batch.started_at_ms or batch.created_at_ms
        until_ms = batch.closing_at_ms or batch.ended_at_ms or now_ms
        return await self._ask(batch, lambda view: view.describe(since_ms, until_ms))

    async def read_page(self, batch: Batch, first: int, kind: str, sought: str) -> LinePage:
        """A page of lines; raises NotFound once its input file is gone."""
        return await self._ask(batch, lambda view: view.read_page(first, kind, sought))

    def close(self) -> None:
        """Give all descriptors back."""
        while self._views:
            self._views.popitem()[1].close()

    async def _ask(self, batch: Batch, question: Callable[[_View], _Result]) -> _Result:
        view = self._views.get(batch.id)
        if view is None:
            view = self._views[batch.id] = _View(self._blobs, batch)
        self._views.move_to_end(batch.id)
        try:
            return await asyncio.to_thread(view.ask, question)
        except BackfillError:
            self._views.pop(batch.id, None)
            await asyncio.to_thread(view.close)
            raise
        finally:
            while len(self._views) > _KEPT:
                _, oldest = self._views.popitem(last=False)
                await asyncio.to_thread(oldest.close)


def _name_outcome(fold: Fold, line: int) -> str:
    outcome = fold.outcomes[line]
    return _OUTCOMES[Outcome(outcome)] if outcome else "waiting"
