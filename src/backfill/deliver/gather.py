"""Fold a batch's journal into its output and error files, in input order."""

import hashlib
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from backfill.batch import Batch, Counts, File, FileStatus, Outcome, UsageRow
from backfill.index import LineIndex
from backfill.journal import Fold, LineModels
from backfill.store import Blobs, BlobWriter, begin_facts, content_key, index_key
from backfill.wire.results import OUTPUT_PURPOSE, render_answer, render_failure, render_rest

__all__ = ["Gathered", "gather", "gather_together", "give_up"]


# Written and hashed together: a call of each for every line would cost more than the work.
_LINES_AT_ONCE = 128
_ANSWERED = int(Outcome.ANSWERED)


class Gathered(NamedTuple):
    """What a batch comes to. A file with no line is not made."""

    counts: Counts
    output: File | None
    error: File | None
    usage: tuple[UsageRow, ...] = ()


class _Results:
    """One of the two files, written line by line and only if there is a line."""

    def __init__(self, blobs: Blobs, batch: Batch, kind: str) -> None:
        self._blobs = blobs
        self._batch = batch
        self._kind = kind
        # The same id whenever the batch is gathered: a repeated delivery replaces its own half-done files.
        self._file_id = f"file-{uuid.uuid5(uuid.UUID(batch.id), kind)}"
        self._writer: BlobWriter | None = None
        self._facts: BlobWriter | None = None
        self._digest = hashlib.sha256()
        self._lines = 0
        self._pending: list[bytes] = []

    def write(self, line: bytes) -> None:
        self._lines += 1
        self._pending.append(line)
        if len(self._pending) >= _LINES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = self._blobs.create(content_key(self._file_id))
        data = b"".join(self._pending)
        self._pending.clear()
        self._writer.write(data)
        self._digest.update(data)

    def finish(self, now_ms: int) -> File | None:
        """The file's row, once all lines are written."""
        if self._pending:
            self._flush()
        if self._writer is None:
            return None
        keep_s = self._batch.output_expires_after_s
        file = File(
            id=self._file_id,
            owner=self._batch.owner,
            filename=f"{self._batch.id}_{self._kind}.jsonl",
            purpose=OUTPUT_PURPOSE[self._batch.dialect],
            status=FileStatus.SEALED,
            created_at_ms=now_ms,
            size_bytes=self._writer.size_bytes,
            line_count=self._lines,
            sha256=self._digest.hexdigest(),
            expires_at_ms=None if keep_s is None else now_ms + keep_s * 1000,
        )
        self._facts = begin_facts(self._blobs, file)
        return file

    @property
    def writers(self) -> list[BlobWriter]:
        """The facts first: whoever finds the content finds them too."""
        return [writer for writer in (self._facts, self._writer) if writer is not None]

    def abort(self) -> None:
        for writer in self.writers:
            writer.abort()


def gather(blobs: Blobs, batch: Batch, now_ms: int) -> Gathered:
    """Write both files durably and give their rows, which nobody sees until the batch is closed with them.

    Blocks on disk: call it in a worker thread. Raises StoreUnavailable if the disk takes no more.
    """
    return gather_together(blobs, [batch], now_ms)[0]


def gather_together(blobs: Blobs, batches: Sequence[Batch], now_ms: int) -> list[Gathered]:
    """As `gather`, for several small batches whose files are synced together; what fails for one fails for all."""
    with ExitStack() as stack:
        gathered, writers = [], []
        for batch in batches:
            output, error = _Results(blobs, batch, "output"), _Results(blobs, batch, "error")
            stack.callback(output.abort)
            stack.callback(error.abort)
            counts, usage = _write_lines(blobs, batch, output, error)
            gathered.append(Gathered(counts, output.finish(now_ms), error.finish(now_ms), usage))
            writers += [*output.writers, *error.writers]
        blobs.seal_together(writers)
        return gathered


def _write_lines(blobs: Blobs, batch: Batch, output: _Results, error: _Results) -> tuple[Counts, tuple[UsageRow, ...]]:
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    fold = Fold(blobs, batch.id, len(index), LineModels.of_batch(batch, index))
    try:
        fold.refresh()
        for line, outcome in enumerate(fold.outcomes):
            custom_id = index.custom_id_json(line)
            if outcome == _ANSWERED:
                status, body = fold.read_answer(line)
                output.write(render_answer(batch, line, custom_id, status, body))
            else:
                error.write(_render_error(fold, batch, line, custom_id))
        counts = fold.counts
        rest = counts.total - counts.done
        # Lines that nobody ran any more count as failed: they are in the error file.
        return msgspec.structs.replace(counts, failed=counts.failed + rest), fold.usage
    finally:
        fold.close()


def give_up(batch: Batch) -> Gathered:
    """What a batch comes to of which nobody knows any more how its lines are called: nothing."""
    return Gathered(Counts(total=batch.counts.total, failed=batch.counts.total), None, None)


def _render_error(fold: Fold, batch: Batch, line: int, custom_id: bytes) -> bytes:
    entry = fold.find(line)
    if entry is None:
        return render_rest(batch, line, custom_id)
    return render_failure(batch, line, custom_id, entry.outcome, entry.status, fold.read_body(entry))
