"""A new file of those lines of an ended batch that have no answer: bytes are copied, nothing is rebuilt."""

import asyncio
from array import array
from collections.abc import Iterable, Iterator

import msgspec

from backfill.batch import Batch, File, FileStatus
from backfill.errors import Conflict
from backfill.intake.failures import ALL_FAILED, FailureChoice, find_failed_offsets, group_failures
from backfill.intake.table_origin import copy_origin
from backfill.intake.upload import Intake, new_file_id
from backfill.store import Blobs, content_key

__all__ = ["copy_failed_lines"]

_PIECE_BYTES = 1 << 18


async def copy_failed_lines(
    intake: Intake, batch: Batch, source: File, now_ms: int, choice: FailureChoice = ALL_FAILED
) -> File:
    """Seal the lines of `source`, which is the batch's input, that were refused, lost, or left undone.

    Raises:
        NotFound: the bytes of the input are gone.
        Conflict: no line is meant, or the journal was removed.
        StoreUnavailable: the disk takes no more.

    """
    general = intake.file_limits
    # A part of what was taken before is taken again, whatever the limits are now.
    limits = general._replace(
        lines=max(general.lines, source.line_count), size_bytes=max(general.size_bytes, source.size_bytes)
    )
    upload = intake.begin(new_file_id(), limits, source.purpose)
    try:
        offsets = await asyncio.to_thread(_find_chosen, intake.blobs, batch, choice)
        pieces = _cut_out(intake.blobs.read_chunks(content_key(source.id), 0, source.size_bytes), offsets)
        while piece := await asyncio.to_thread(next, pieces, b""):
            await upload.feed(piece)
        await asyncio.to_thread(copy_origin, intake.blobs, source.id, upload.file_id)
        draft = msgspec.structs.replace(
            source,
            id=upload.file_id,
            filename=f"{batch.id}_retry.jsonl",
            status=FileStatus.RESERVED,
            created_at_ms=now_ms,
            expires_at_ms=None,
            sha256="",
        )
        return await upload.seal(draft)
    finally:
        upload.abort()


def _find_chosen(blobs: Blobs, batch: Batch, choice: FailureChoice) -> "array[int]":
    offsets = array("Q", find_failed_offsets(blobs, batch, choice))
    if not offsets:
        codes = ", ".join(sorted({group.code for group in group_failures(blobs, batch)}))
        if any(choice):
            message = f"No failed request of batch {batch.id} is of that kind. Codes of those that failed: {codes}."
        else:
            message = (
                f"The lines of batch {batch.id} that failed are no requests ({codes}), and would fail again; "
                "correct them and upload a new file."
            )
        raise Conflict(message, code="nothing_to_retry")
    return offsets


def _cut_out(chunks: Iterable[bytes], offsets: Iterable[int]) -> Iterator[bytes]:
    """The whole lines that have something at these offsets, a few hundred kilobytes at a time."""
    wanted = iter(offsets)
    target = next(wanted, None)
    found: list[bytes] = []
    size = end = 0
    for line in _cut_lines(chunks):
        if target is None:
            break
        end += len(line)
        if target < end:
            found.append(line if line.endswith(b"\n") else line + b"\n")
            size += len(line)
            target = next(wanted, None)
            if size >= _PIECE_BYTES:
                yield b"".join(found)
                found, size = [], 0
    if found:
        yield b"".join(found)


def _cut_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, out of pieces that are cut anywhere."""
    pending: list[bytes] = []
    for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join((*pending, line, b"\n"))
            pending = []
        pending.append(rest)
    if any(pending):
        yield b"".join(pending)
