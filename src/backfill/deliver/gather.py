"""Fold a batch's journal into its output and error files, in input order."""

import hashlib
import uuid
from typing import NamedTuple

import msgspec

from backfill.batch import Batch, Counts, File, FileStatus, Outcome
from backfill.index import LineIndex
from backfill.journal import Fold
from backfill.store import BlobWriter, LocalBlobs, content_key, index_key
from backfill.wire.results import OUTPUT_PURPOSE, render_answer, render_failure, render_rest

__all__ = ["Gathered", "gather"]


# Written and hashed together: a call of each for every line would cost more than the work.
_LINES_AT_ONCE = 128


class Gathered(NamedTuple):
    """What a batch comes to. A file with no line is not made."""

    counts: Counts
    output: File | None
    error: File | None


class _Results:
    """One of the two files, written line by line and only if there is a line."""

    def __init__(self, blobs: LocalBlobs, batch: Batch, kind: str) -> None:
        self._blobs = blobs
        self._batch = batch
        self._kind = kind
        # The same id whenever the batch is gathered: a repeated delivery replaces its own half-done files.
        self._file_id = f"file-{uuid.uuid5(uuid.UUID(batch.id), kind)}"
        self._writer: BlobWriter | None = None
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

    def seal(self, now_ms: int) -> File | None:
        if self._pending:
            self._flush()
        if self._writer is None:
            return None
        self._writer.seal()
        keep_s = self._batch.output_expires_after_s
        return File(
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

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()


def gather(blobs: LocalBlobs, batch: Batch, now_ms: int) -> Gathered:
    """Write both files durably and give their rows, which nobody sees until the batch is closed with them.

    Blocks on disk: call it in a worker thread. Raises StoreUnavailable if the disk takes no more.
    """
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    fold = Fold(blobs, batch.id, len(index))
    output, error = _Results(blobs, batch, "output"), _Results(blobs, batch, "error")
    try:
        fold.refresh()
        for line in range(len(index)):
            _write_line(fold, index, batch, line, output, error)
        counts = fold.counts
        rest = counts.total - counts.done
        # Lines that nobody ran any more count as failed: they are in the error file.
        counts = msgspec.structs.replace(counts, failed=counts.failed + rest)
        return Gathered(counts, output.seal(now_ms), error.seal(now_ms))
    finally:
        output.abort()
        error.abort()
        fold.close()


def _write_line(fold: Fold, index: LineIndex, batch: Batch, line: int, output: _Results, error: _Results) -> None:
    entry = fold.find(line)
    custom_id = index.custom_id_json(line)
    if entry is None:
        error.write(render_rest(batch, line, custom_id))
        return
    body = fold.read_body(entry)
    if entry.outcome is Outcome.ANSWERED:
        output.write(render_answer(batch, line, custom_id, entry.status, body))
    else:
        error.write(render_failure(batch, line, custom_id, entry.outcome, entry.status, body))
