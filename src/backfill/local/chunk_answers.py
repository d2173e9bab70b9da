"""The answers of one chunk of rows, out of the journal of its batch."""

from collections.abc import Sequence
from typing import Any

from backfill.batch import Batch, Outcome
from backfill.journal import Finished, Fold, read_durations
from backfill.local.table_job import TableJob
from backfill.store import Blobs
from backfill.tables import Block, read_result_line
from backfill.wire.results import render_failure, render_rest

__all__ = ["ChunkAnswers", "read_finished", "read_rest"]


class ChunkAnswers:
    """Gives the values of the chunk's rows in their order. Blocks on disk: call it in a worker thread."""

    def __init__(
        self, blobs: Blobs, job: TableJob, chunk: int, batch: Batch | None, refusal: str | None = None
    ) -> None:
        """`refusal`: why no request of the chunk was taken, if it has some."""
        self.chunk = chunk
        self._job = job
        self._batch = batch
        self._refusal = refusal
        self._line = 0
        lines = batch.counts.total if batch is not None else 0
        self._is_whole = lines == job.size_of(chunk)
        """Whether each row has a line; only otherwise one must look which have."""
        self._fold = Fold(blobs, batch.id, lines) if batch is not None else None
        if self._fold is not None:
            self._fold.refresh()
        wants_durations = batch is not None and job.reader.with_usage
        self._durations = read_durations(blobs, batch.id, lines) if batch is not None and wants_durations else None

    def close(self) -> None:
        """Give all descriptors back."""
        if self._fold is not None:
            self._fold.close()

    def read(self, block: Block, start: int, count: int) -> list[list[Any]]:
        """The values of the next `count` rows, which are those from `start` on in the block."""
        if self._is_whole:
            return [self._read_next() for _ in range(count)]
        rows = block.take(self._job.builder.columns)[start : start + count]
        return [self._read_row(values) for values in rows]

    def _read_row(self, values: Sequence[Any]) -> list[Any]:
        obstacle = self._job.builder.find_obstacle(values)
        if obstacle is not None:
            return self._job.reader.fail(f"{obstacle} [not_sent]")
        return self._read_next() if self._refusal is None else self._job.reader.fail(self._refusal)

    def _read_next(self) -> list[Any]:
        line, self._line = self._line, self._line + 1
        assert self._fold is not None  # noqa: S101 - a line has a batch
        assert self._batch is not None  # noqa: S101
        entry = self._fold.find(line)
        latency_ms = self._durations[line] if self._durations is not None else None
        if entry is None:
            return read_rest(self._job, self._batch, line)
        body = self._fold.read_body(entry)
        if entry.outcome is Outcome.ANSWERED:
            return self._job.reader.read(body, latency_ms)
        return read_finished(self._job, self._batch, Finished(line, entry.outcome, entry.status, body, latency_ms or 0))


def read_finished(job: TableJob, batch: Batch, finished: Finished) -> list[Any]:
    """The values of a row whose line has its outcome."""
    line, outcome, status, body, duration_ms = finished
    if outcome is Outcome.ANSWERED:
        return job.reader.read(body, duration_ms)
    return _read_failure(job, render_failure(batch, line, b'""', outcome, status, body))


def read_rest(job: TableJob, batch: Batch, line: int) -> list[Any]:
    """The values of a row whose batch ended without it."""
    return _read_failure(job, render_rest(batch, line, b'""'))


def _read_failure(job: TableJob, rendered: bytes) -> list[Any]:
    result = read_result_line(rendered)
    assert result is not None  # noqa: S101 - we have just rendered it
    return job.reader.read_result(result)
