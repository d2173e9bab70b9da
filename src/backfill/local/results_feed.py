"""The results of a table as they finish, row by row, those of an earlier run first."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backfill.journal import Tail
from backfill.local.chunk_answers import read_finished, read_rest
from backfill.local.table_job import TableJob
from backfill.local.table_run import TableRun
from backfill.store import Blobs
from backfill.tables import NOT_RUN

__all__ = ["ResultsFeed"]

_PIECE_BYTES = 1 << 18
Give = Callable[[int, list[Any]], None]


class _Chunk:
    """One chunk whose results are given out."""

    def __init__(self, job: TableJob, chunk: int, lines: int, tail: Tail | None) -> None:
        self.tail = tail
        first, size = chunk * job.chunk_rows, job.size_of(chunk)
        self.rows: Sequence[int] = range(first, first + size)
        """Line -> row."""
        self.unsent: list[tuple[int, str]] = []
        if lines < size:
            sent = []
            for row, values in _read_rows(job, first, size):
                obstacle = job.builder.find_obstacle(values)
                if obstacle is None:
                    sent.append(row)
                else:
                    self.unsent.append((row, obstacle))
            self.rows = sent


class ResultsFeed:
    """Gives each row's values once, as soon as they are on disk. Blocks on disk: call it in worker threads."""

    def __init__(self, blobs: Blobs, job: TableJob, run: TableRun, give: Give) -> None:
        self._blobs = blobs
        self._job = job
        self._run = run
        self._give = give
        self._chunks: dict[int, _Chunk] = {}
        self._ended: set[int] = set()

    def read_on(self) -> None:
        """Give what has finished since the last time."""
        for chunk in sorted({*list(self._run.batches), *list(self._run.empty)} - self._ended):
            self._read_chunk(chunk)

    def close(self) -> None:
        """Give all descriptors back."""
        for chunk in self._chunks.values():
            if chunk.tail is not None:
                chunk.tail.close()

    def _read_chunk(self, number: int) -> None:
        batch = self._run.batches.get(number)
        chunk = self._chunks.get(number)
        if chunk is None:
            lines = batch.counts.total if batch is not None else 0
            tail = Tail(self._blobs, batch.id, lines) if batch is not None else None
            chunk = self._chunks[number] = _Chunk(self._job, number, lines, tail)
            for row, obstacle in chunk.unsent:
                self._give(row, self._job.reader.fail(f"{obstacle} [not_sent]"))
        if batch is None or chunk.tail is None:
            for row in chunk.rows:
                self._give(row, self._job.reader.fail(self._run.refusals.get(number, NOT_RUN)))
            self._ended.add(number)
            return
        while finished := chunk.tail.read(_PIECE_BYTES):
            for each in finished:
                self._give(chunk.rows[each.line], read_finished(self._job, batch, each))
        if batch.state.is_final:
            for line in chunk.tail.find_unfinished():
                self._give(chunk.rows[line], read_rest(self._job, batch, line))
            self._ended.add(number)
            chunk.tail.close()
            chunk.tail = None


def _read_rows(job: TableJob, first: int, count: int) -> Iterator[tuple[int, Sequence[Any]]]:
    row = first
    for block in job.read(first):
        for values in block.take(job.builder.columns):
            if row == first + count:
                return
            yield row, values
            row += 1
