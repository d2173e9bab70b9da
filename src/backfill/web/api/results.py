"""Results before the end: the finished lines of a batch in the order in which they finish, for as long as it runs."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backfill.batch import Batch, Outcome, State
from backfill.errors import Conflict, InputLost, NotFound
from backfill.index import LineIndex
from backfill.journal import Finished, JournalHold, SlicedTail, Tail
from backfill.store import Blobs, Metadata, Slices, index_key, journal_prefix
from backfill.tables import Form
from backfill.web.api.cut_stream import CutStream
from backfill.web.api.keys import CallerOf
from backfill.web.api.result_tables import ResultTableStream, open_table_stream
from backfill.web.api.services import Services, ServicesOf
from backfill.wire.results import render_answer, render_failure, render_rest

__all__ = ["ResultStream", "open_stream", "open_table", "router"]

AFTER_MAX = 2**31 - 1
POLL_S = 0.25
_PIECE_BYTES = 1 << 18
_REST_AT_ONCE = 1000

router = APIRouter()


@router.get("/v1/batches/{batch_id}/results")
async def stream_results(
    batch_id: str,
    services: ServicesOf,
    caller: CallerOf,
    after: Annotated[int, Query(ge=0, le=AFTER_MAX)] = 0,
    follow: bool = True,
    form: Annotated[Literal["jsonl", "csv", "parquet"], Query(alias="format")] = "jsonl",
) -> Response:
    """The finished lines behind the first `after`; with `follow`, those to come as well, until the batch has ended.

    As CSV or Parquet instead: a table of all rows as they stand now, in the order of the input.
    """
    batch = await services.metadata.get_batch(batch_id, caller.owner)
    if form != "jsonl":
        return await open_table(services, batch, Form.CSV if form == "csv" else Form.PARQUET)
    is_still_let_in = functools.partial(services.keys.is_valid, caller)
    return await open_stream(services, batch, after, is_still_let_in if follow else None)


async def open_stream(services: Services, batch: Batch, after: int, may_follow: "MayFollow | None") -> "ResultStream":
    """The result lines behind the first `after`, as an answer; with `may_follow` those to come as well."""
    hold = await services.intake.journal_holds.take(batch.id)
    try:
        lines = await _open_lines(services, batch, after)
        try:
            # While the status can still say that this failed.
            first = await lines.read_on()
            if services.is_shared:
                # Now its files are open: who removes it takes nothing away any more.
                await asyncio.to_thread(_check_journal, services.blobs, batch)
        except BaseException:
            lines.close()
            raise
    except BaseException:
        hold.release()
        raise
    return ResultStream(services, batch, _Source(lines, first, hold), may_follow)


async def open_table(services: Services, batch: Batch, form: Form) -> ResultTableStream:
    """All rows of the batch with what became of them, as an answer; raises Conflict if they are not to be had."""
    hold = await services.intake.journal_holds.take(batch.id)
    try:
        await _check_sources(services, batch)
        return await open_table_stream(services, batch, form, hold)
    except BaseException:
        hold.release()
        raise


async def _open_lines(services: Services, batch: Batch, after: int) -> "_ResultLines":
    await _check_sources(services, batch)
    rows = _Rows(services.metadata, batch.id) if services.is_shared or batch.slices else None
    try:
        return await asyncio.to_thread(_ResultLines, services.blobs, batch, after, rows)
    except NotFound:
        raise _make_input_gone(batch) from None


async def _check_sources(services: Services, batch: Batch) -> None:
    """Raises Conflict if the journal or the input of the batch is gone."""
    await asyncio.to_thread(_check_journal, services.blobs, batch)
    try:
        await services.intake.inputs.check_index(batch)
    except (NotFound, InputLost):
        raise _make_input_gone(batch) from None


def _make_input_gone(batch: Batch) -> Conflict:
    message = f"The input file of batch {batch.id} is gone; its results are in its output and error file."
    return Conflict(message, code="input_file_deleted")


def _check_journal(blobs: Blobs, batch: Batch) -> None:
    """Raises Conflict if the journal of an ended batch was removed. Blocks on disk."""
    # Lines that a cancel or a deadline left undone were never in the journal.
    has_one = batch.state.is_final and (batch.counts.answered or any(row.failed for row in batch.usage))
    if has_one and not blobs.list_segments(journal_prefix(batch.id)):
        message = (
            f"The journal of batch {batch.id} was removed (retention.journals_days); its results are in its output and "
            "error file."
        )
        raise Conflict(message, code="journal_removed")


class _Rows:
    """What is written of a batch beside its journal."""

    def __init__(self, metadata: Metadata, batch_id: str) -> None:
        self._metadata = metadata
        self._slices = Slices(metadata)
        self._batch_id = batch_id

    async def find(self) -> Batch:
        """The batch as it is now."""
        return await self._metadata.get_batch(self._batch_id)

    async def list_slices(self, batch: Batch) -> Sequence[int]:
        """The slices to which nothing more is written, as `find` has just given the batch; what came first stays so."""
        drained = await self._slices.list_drained(batch.id)
        if not batch.state.is_final:
            return drained
        # Those that a cancel or a deadline left undone. Nobody has them any more, or what he writes does not count.
        return [*drained, *(number for number in range(1, batch.slices + 1) if number not in drained)]


class _ResultLines:
    """Renders what the journal tells. Blocks on disk: call it in worker threads; one at a time goes in."""

    def __init__(self, blobs: Blobs, batch: Batch, after: int, rows: _Rows | None) -> None:
        """`rows`: None: no other process takes turns on the batch, and it was not cut."""
        self._index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
        self._batch = batch
        self._blobs = blobs
        self._rows = rows
        self._tail = Tail(blobs, batch.id, len(self._index), after, is_shared=rows is not None)
        self._lock = threading.Lock()
        self._is_closed = False
        self.is_held_back = False
        """Whether there may be lines that nobody may be given yet, as a turn was lost and the next is not begun."""

    async def read_on(self) -> bytes:
        """The next finished lines; nothing if no other one has finished yet, or may be given out."""
        if self._rows is not None and self._tail.is_through:
            await asyncio.to_thread(self._look)
            row = await self._rows.find()
            if row.slices:
                await asyncio.to_thread(self._note_slices, await self._rows.list_slices(row))
            else:
                self.is_held_back = not await asyncio.to_thread(self._settle, row)
        return await asyncio.to_thread(self.read_finished)

    def read_finished(self) -> bytes:
        """The next finished lines; nothing if no other line has finished yet."""
        with self._lock:
            if self._is_closed:
                return b""
            return b"".join(map(self._render, self._tail.read(_PIECE_BYTES)))

    def find_rest(self) -> list[int]:
        """The lines that are still to be told of a batch which has ended, and which no engine answered."""
        with self._lock:
            return list(self._tail.find_unfinished())[self._tail.to_skip :]

    def render_rest(self, ended: Batch, lines: list[int]) -> bytes:
        """Lines that a cancel or a deadline left undone."""
        return b"".join(render_rest(ended, line, self._index.custom_id_json(line)) for line in lines)

    def _look(self) -> None:
        with self._lock:
            if not self._is_closed and not isinstance(self._tail, SlicedTail):
                self._tail.look()

    def _note_slices(self, numbers: Sequence[int]) -> None:
        with self._lock:
            if self._is_closed:
                return
            if not isinstance(self._tail, SlicedTail):
                # Of a batch that waits to be admitted nobody knows whether it will be cut; nothing has come of it yet.
                self._tail.close()
                self._tail = SlicedTail(self._blobs, self._batch.id, len(self._index), self._tail.to_skip)
            self._tail.note_slices(numbers)

    def _settle(self, row: Batch) -> bool:
        with self._lock:
            is_settled = not self._is_closed and self._tail.is_settled(row)
            if is_settled:
                self._tail.begin_pass()
            return is_settled

    def close(self) -> None:
        """Give all descriptors back, once nobody reads."""
        with self._lock:
            self._is_closed = True
            self._tail.close()

    def _render(self, finished: Finished) -> bytes:
        line, outcome, status, body, _ = finished
        custom_id = self._index.custom_id_json(line)
        if outcome is Outcome.ANSWERED:
            return render_answer(self._batch, line, custom_id, status, body)
        return render_failure(self._batch, line, custom_id, outcome, status, body)


class _Source(NamedTuple):
    """What a stream sends, and what it owns of it until its end."""

    lines: _ResultLines
    first: bytes
    """What was read already."""
    hold: JournalHold
    """Keeps the journal where it is."""


MayFollow = Callable[[], Awaitable[bool]]


class _NoMoreLetIn(Exception):
    """The key was revoked or is over."""


class ResultStream(CutStream):
    """Sends lines until there are no more. Owns the lines, and closes them."""

    media_type = "application/jsonl"

    def __init__(self, services: Services, batch: Batch, source: _Source, may_follow: MayFollow | None) -> None:
        """With `may_follow` it goes on until the batch has ended, or the caller may see no more of it."""
        super().__init__(services.stopping)
        self._metadata = services.metadata
        self._batch = batch
        self._lines = source.lines
        self._first = source.first
        self._hold = source.hold
        self._may_follow = may_follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        # Cut like one whose server stops: what was sent is not the whole.
        with suppress(_NoMoreLetIn):
            await super().__call__(scope, receive, send)

    async def close(self) -> None:
        """Give all descriptors back, and the journal free."""
        try:
            await asyncio.to_thread(self._lines.close)
        finally:
            self._hold.release()

    async def make_pieces(self) -> AsyncIterator[bytes]:
        """The lines, some at a time."""
        batch = self._batch
        if self._first:
            yield self._first
        while True:
            while piece := await self._lines.read_on():
                yield piece
            # It had ended before the journal was read: nothing was written since.
            if batch.state.is_final and not self._lines.is_held_back:
                break
            if self._may_follow is None:
                return
            await asyncio.sleep(POLL_S)
            if not await self._may_follow():
                raise _NoMoreLetIn
            batch = await self._metadata.get_batch(batch.id)
        # A batch that was rejected has no result lines at all, only reasons.
        if batch.state is not State.FAILED or batch.started_at_ms is not None:
            rest = await asyncio.to_thread(self._lines.find_rest)
            for start in range(0, len(rest), _REST_AT_ONCE):
                yield await asyncio.to_thread(self._lines.render_rest, batch, rest[start : start + _REST_AT_ONCE])
