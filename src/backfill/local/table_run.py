"""A table without a server: its rows as batches of some thousands, two at most, and their answers beside them.

    OUTPUT.backfill/            the state folder: a data directory, with a file and a batch for each chunk of rows
    OUTPUT.backfill/table.json  what is run, so that nothing else goes on with it (`table_job`)

The name of a batch's file says which chunk it is; chunks without a batch are still to be made. So whatever is killed
where, the next run makes what is missing and goes on.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from backfill.app import Rooms, working
from backfill.batch import Batch, BatchProblem, Counts, File, FileStatus, Usage
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake import new_file_id
from backfill.local.chunk_answers import ChunkAnswers
from backfill.local.state import LOCAL_OWNER
from backfill.local.stop import Stop
from backfill.local.table_job import TableJob
from backfill.tables import TableWriter, Unsendable
from backfill.turns import BatchRequest, judge, now_ms

__all__ = ["ShowProgress", "TableCounts", "TableRun"]

_OPEN_CHUNKS = 2
_LAST_PART = 5
"""The next chunk is begun when less than this part of one is left."""
_POLL_S = 0.25
_PIECE_ROWS = 500
_LISTED = 1000

ShowProgress = Callable[[Counts, str | None], None]
"""Gets the counts of all rows so far, and what holds the work up."""


class TableCounts(NamedTuple):
    """How the rows fared that were written."""

    answered: int
    failed: int
    """Rows whose error says why they have no answer."""


class _Rows:
    """The rows that a chunk is made of, read on from chunk to chunk. Blocks on disk: call it in a worker thread."""

    def __init__(self, job: TableJob) -> None:
        self._job = job
        self._next = 0
        self._values: Iterator[Sequence[Any]] = iter(())

    def build(self, start: int, count: int) -> tuple[bytes, int]:
        """The request lines of rows, and how many rows nothing can be asked about."""
        if start != self._next or start == 0:
            columns = self._job.builder.columns
            self._values = (values for block in self._job.read(start) for values in block.take(columns))
        self._next = start + count
        lines, unsendable = [], 0
        for row in range(start, start + count):
            values = next(self._values, None)
            if values is None:
                raise _changed(self._job)
            try:
                lines.append(self._job.builder.build(row, values))
            except Unsendable:
                unsendable += 1
        return b"".join(lines), unsendable


class TableRun:
    """One job in the rooms of its state folder."""

    def __init__(self, rooms: Rooms, job: TableJob, show: ShowProgress, stop: Stop) -> None:
        self._rooms = rooms
        self._job = job
        self._show = show
        self._stop = stop
        self._bell = stop.bell = rooms.turns.subscribe()
        self.batches: dict[int, Batch] = {}
        """Chunk -> its batch."""
        self.empty: set[int] = set()
        """Chunks of which nothing can be asked."""
        self.refusals: dict[int, str] = {}
        """Such a chunk -> why no server takes its requests, if it has any."""
        self._moved = asyncio.Event()
        self._unsendable: dict[int, int] = {}
        self.done_before = 0
        """Rows that an earlier run got done."""

    @property
    def is_complete(self) -> bool:
        """Whether every row has its outcome."""
        ended = sum(batch.state.is_final for batch in self.batches.values())
        return ended + len(self.empty) == self._job.chunks

    async def work(self, follow: Callable[[], Any] | None = None) -> bool:
        """Run rows until all are done, or the user has had enough; whether all are done.

        `follow` is called in a worker thread again and again, and a last time when nothing more will finish.
        """
        await self._find_batches()
        self.done_before = (await self.count()).done
        async with working(self._rooms) as work:
            making = asyncio.create_task(self._make_batches(), name="make batches")
            for task in (work, making):
                task.add_done_callback(lambda _: self._bell.ring())
            try:
                while not (self.is_complete or self._stop.came or work.done()):
                    if making.done():
                        making.result()
                    self._show(await self.count(), self._name_hindrance())
                    await self._bell.wait(_POLL_S)
                    await self._refresh()
                    if follow is not None:
                        await asyncio.to_thread(follow)
                if self._stop.came:
                    self._rooms.dispatcher.stop()
                    self._show(await self.count(), self._name_last())
            finally:
                making.cancel()
                await asyncio.wait([making])
        await self._refresh()
        self._show(await self.count(), None)
        if follow is not None:
            await asyncio.to_thread(follow)
        return self.is_complete

    async def count(self) -> Counts:
        """All rows, by what became of them."""
        found = [await self._rooms.progress.count(batch) for batch in list(self.batches.values())]
        unsendable = sum(self._unsendable.values())
        usage = Usage(*map(sum, zip(*(each.usage for each in found), strict=True)))
        return Counts(
            total=self._job.rows,
            answered=sum(each.answered for each in found),
            failed=sum(each.failed for each in found) + unsendable,
            usage=usage,
            reused=sum(each.reused for each in found),
        )

    def write(self, writer: TableWriter) -> TableCounts:
        """Every row with its answer, in order. Blocks on disk: call it in a worker thread."""
        job, reader = self._job, self._job.reader
        at_error = [column.name for column in reader.columns].index(reader.error_column)
        row = failed = 0
        for block, values in self._answer_blocks():
            writer.write(block, values)
            row += len(block)
            failed += sum(each[at_error] is not None for each in values)
        if row != job.rows:
            raise _changed(job)
        writer.finish()
        return TableCounts(row - failed, failed)

    def read_answers(self) -> Iterator[list[list[Any]]]:
        """The values of every row's new columns, block by block. Blocks on disk: call it in a worker thread."""
        for _, values in self._answer_blocks():
            yield values

    def open_answers(self, chunk: int) -> ChunkAnswers:
        """The answers of one chunk; to be closed."""
        return ChunkAnswers(self._rooms.blobs, self._job, chunk, self.batches.get(chunk), self.refusals.get(chunk))

    def _answer_blocks(self) -> Iterator[tuple[Any, list[list[Any]]]]:
        row, answers = 0, None
        try:
            for block in self._job.read():
                values: list[list[Any]] = []
                while len(values) < len(block):
                    chunk, first = divmod(row + len(values), self._job.chunk_rows)
                    if answers is None or answers.chunk != chunk:
                        if answers is not None:
                            answers.close()
                        answers = self.open_answers(chunk)
                    count = min(len(block) - len(values), self._job.size_of(chunk) - first)
                    values += answers.read(block, len(values), count)
                yield block, values
                row += len(block)
        finally:
            if answers is not None:
                answers.close()

    async def _find_batches(self) -> None:
        after = None
        while True:
            found = await self._rooms.metadata.list_batches(LOCAL_OWNER, after=after, limit=_LISTED)
            for batch in found:
                file = await self._rooms.metadata.get_file(batch.input_file_id)
                chunk = int(file.filename.removeprefix("rows-").removesuffix(".jsonl"))
                self.batches[chunk] = batch
                self._unsendable[chunk] = self._job.size_of(chunk) - batch.counts.total
            if len(found) < _LISTED:
                return
            after = found[-1].id

    async def _refresh(self) -> None:
        for chunk, batch in list(self.batches.items()):
            if not batch.state.is_final:
                self.batches[chunk] = await self._rooms.metadata.get_batch(batch.id)
        self._moved.set()

    async def _make_batches(self) -> None:
        rows = _Rows(self._job)
        for chunk in range(self._job.chunks):
            if chunk in self.batches:
                continue
            file = await self._seal(chunk, rows)
            if file is None:
                self.empty.add(chunk)
                continue
            verdict = judge(msgspec.json.decode(file.survey, type=Survey), self._endpoint, self._job.model_id)
            if verdict.fails:
                # No request of it can be sent, as where every prompt is empty; those of other chunks may do.
                self.refusals[chunk] = _name_problem(verdict.reasons.problems)
                self._unsendable[chunk] = self._job.size_of(chunk)
                self.empty.add(chunk)
                continue
            await self._wait_for_room()
            request = BatchRequest(LOCAL_OWNER, self._endpoint, file.id, model_id=self._job.model_id)
            self.batches[chunk] = await self._rooms.turns.create(request)

    async def _wait_for_room(self) -> None:
        """Return once another batch keeps engines busy: before the ones under way are through, but not long before.

        Lines of two batches at a time cost more each, since it is asked each time whose turn it is.
        """
        while True:
            unended = [batch for batch in self.batches.values() if not batch.state.is_final]
            counts = [await self._rooms.progress.count(batch) for batch in unended]
            left = sum(each.total - each.done for each in counts)
            if len(unended) < _OPEN_CHUNKS and left <= self._job.chunk_rows // _LAST_PART:
                return
            self._moved.clear()
            await self._moved.wait()

    async def _seal(self, chunk: int, rows: _Rows) -> File | None:
        """The file with a chunk's requests; None if there are none."""
        upload = self._rooms.intake.begin(new_file_id())
        draft = File(
            id=upload.file_id,
            owner=LOCAL_OWNER,
            filename=f"rows-{chunk}.jsonl",
            purpose="batch-api",
            status=FileStatus.RESERVED,
            created_at_ms=now_ms(),
        )
        first, size = chunk * self._job.chunk_rows, self._job.size_of(chunk)
        self._unsendable[chunk] = 0
        try:
            for at in range(0, size, _PIECE_ROWS):
                lines, unsendable = await asyncio.to_thread(rows.build, first + at, min(_PIECE_ROWS, size - at))
                self._unsendable[chunk] += unsendable
                await upload.feed(lines)
            return await upload.seal(draft) if self._unsendable[chunk] < size else None
        finally:
            upload.abort()

    @property
    def _endpoint(self) -> str:
        return self._job.builder.plan.endpoint

    def _name_hindrance(self) -> str | None:
        troubles = self._rooms.dispatcher.troubles
        if troubles:
            return "; ".join(f"engine {name}: {trouble}" for name, trouble in troubles.items())
        waits = [self._rooms.dispatcher.find_wait(batch) for batch in self.batches.values() if not batch.state.is_final]
        # As long as one of them moves, the table does.
        return waits[0].message if waits and waits[0] is not None and all(waits) else None

    def _name_last(self) -> str | None:
        in_flight = self._rooms.dispatcher.in_flight
        plural = "s" if in_flight > 1 else ""
        return f"finishing {in_flight} request{plural} in flight, press again to stop at once" if in_flight else None


def _changed(job: TableJob) -> InvalidInput:
    return InvalidInput(f"{job.table.name} became shorter while it was run.", param="input", code="input_changed")


def _name_problem(problems: Sequence[BatchProblem]) -> str:
    return f"{problems[0].message} [{problems[0].code}]" if problems else "no request of these can be sent [not_sent]"
