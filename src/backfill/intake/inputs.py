"""What a batch reads is what was uploaded: looked at before it is read, put right where that is possible.

Each content is hashed once in a process, and again after its blob has changed; a file that this process sealed counts
as looked at. So most turns cost two looks at a folder entry, and a restart costs 0.1 s for each 100 MB that are still
to be run. The index is a mere summary: where it is damaged or gone it is made again from the content.
"""

import asyncio
import hashlib

import structlog

from backfill.batch import Batch, File
from backfill.config import LimitsConfig
from backfill.errors import InputLost, NotFound, StoreCorrupt
from backfill.index import LineIndex
from backfill.intake.scanner import LineScanner
from backfill.store import BlobMark, Blobs, Metadata, content_key, index_key

__all__ = ["Inputs"]

_PIECE_BYTES = 1 << 20
_MARKS_KEPT = 10_000
_WITH_EVERY_LINE = "#"
_log = structlog.get_logger(__name__)


class Inputs:
    """The files that batches read, as this process has found them."""

    def __init__(self, blobs: Blobs, metadata: Metadata, limits: LimitsConfig) -> None:
        self._blobs = blobs
        self._metadata = metadata
        self._limits = limits
        self._sound: dict[str, BlobMark] = {}
        """Blob key -> what the blob looked like when its bytes were known to be right; for batches that pass over
        invalid lines the index's key has a mark, since an index of before these were in it will not do."""

    def note_sealed(self, file_id: str) -> None:
        """This process has just written the file itself."""
        self._note(content_key(file_id), self._blobs.look_at(content_key(file_id)))
        key = index_key(file_id)
        mark = self._blobs.look_at(key)
        self._note(key, mark)
        self._note(key + _WITH_EVERY_LINE, mark)

    async def check_content(self, batch: Batch) -> None:
        """Return if index and content of the batch's input are as they were sealed.

        Raises:
            InputLost: they are not, and cannot be had again.
            StoreUnavailable: they cannot be read now.

        """
        key = content_key(batch.input_file_id)
        if not await self._is_sound(key, key):
            await self._verify(batch)
        await self.check_index(batch)

    async def check_index(self, batch: Batch) -> None:
        """Return if the index of the batch's input is sound, after making it again if need be; raises as above."""
        key = index_key(batch.input_file_id)
        name = key + _WITH_EVERY_LINE if batch.skips_invalid_lines else key
        if await self._is_sound(name, key):
            return
        try:
            mark = await asyncio.to_thread(self._read_index, key, batch)
        except (NotFound, StoreCorrupt) as error:
            mark = await self._rebuild(batch, error.message)
        self._note(name, mark)

    async def _verify(self, batch: Batch) -> None:
        key = content_key(batch.input_file_id)
        try:
            file = await self._metadata.get_file(batch.input_file_id)
            mark, size_bytes, sha256 = await asyncio.to_thread(self._hash, key)
        except NotFound:
            raise _name_lost(batch.input_file_id, "is gone") from None
        if size_bytes != file.size_bytes:
            raise _name_lost(file.id, f"has {size_bytes} bytes instead of {file.size_bytes}")
        if sha256 != file.sha256:
            raise _name_lost(file.id, "is not what was uploaded: its SHA-256 is another")
        self._note(key, mark)

    async def _rebuild(self, batch: Batch, reason: str) -> BlobMark:
        await self._verify(batch)
        file = await self._metadata.get_file(batch.input_file_id)
        mark = await asyncio.to_thread(self._write_index, file)
        _log.warning("line index made again from the content", file=file.id, reason=reason)
        return mark

    def _read_index(self, key: str, batch: Batch) -> BlobMark:
        mark = self._blobs.look_at(key)
        index = LineIndex.decode(self._blobs.read(key))
        if len(index) != batch.counts.total:
            message = f"The line index of a file has {len(index)} lines, its row {batch.counts.total}."
            raise StoreCorrupt(message)
        if batch.skips_invalid_lines and not index.has_every_line:
            message = "The line index of a file is of before invalid lines were in it."
            raise StoreCorrupt(message)
        return mark

    def _write_index(self, file: File) -> BlobMark:
        scanner = LineScanner(lines_limit=file.line_count, custom_id_length=self._limits.custom_id_length)
        for piece in self._blobs.read_chunks(content_key(file.id), 0, file.size_bytes, _PIECE_BYTES):
            scanner.feed(piece)
        index, _ = scanner.finish()
        if len(index) != file.line_count:
            raise _name_lost(file.id, f"has {len(index)} requests, its row {file.line_count}")
        key = index_key(file.id)
        self._blobs.write(key, index.encode())
        return self._blobs.look_at(key)

    def _hash(self, key: str) -> tuple[BlobMark, int, str]:
        # Looked at first: what changes while it is read is read once more.
        mark = self._blobs.look_at(key)
        digest = hashlib.sha256()
        for piece in self._blobs.read_chunks(key, 0, mark.size_bytes, _PIECE_BYTES):
            digest.update(piece)
        return mark, mark.size_bytes, digest.hexdigest()

    async def _is_sound(self, name: str, key: str) -> bool:
        known = self._sound.get(name)
        if known is None:
            return False
        blobs = self._blobs
        try:
            return known == (blobs.look_at(key) if blobs.is_near else await asyncio.to_thread(blobs.look_at, key))
        except NotFound:
            return False

    def _note(self, key: str, mark: BlobMark) -> None:
        self._sound[key] = mark
        if len(self._sound) > _MARKS_KEPT:
            del self._sound[next(iter(self._sound))]


def _name_lost(file_id: str, what: str) -> InputLost:
    message = f"The content of the input file {file_id} {what}; upload it again and create a new batch."
    return InputLost(message, param="input_file_id")
