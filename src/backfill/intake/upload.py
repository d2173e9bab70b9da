"""An upload becomes a sealed file and its index, in one streaming pass."""

import asyncio
import hashlib
import uuid
from weakref import WeakValueDictionary

import msgspec

from backfill.batch import File, FileStatus
from backfill.config import LimitsConfig
from backfill.errors import Conflict, InvalidInput, TooLarge
from backfill.intake.scanner import LineScanner
from backfill.store import LocalBlobs, Metadata, content_key, file_prefix, index_key

__all__ = ["Intake", "Upload", "new_file_id"]

# Large enough that the way to a worker thread costs little, small enough that memory does not show it.
_PIECE_BYTES = 1 << 19


def new_file_id() -> str:
    """A file id in the form that Together gives."""
    return f"file-{uuid.uuid4()}"


class Upload:
    """Bytes on their way to become a file: `feed` them in order, then `seal` or `abort`."""

    def __init__(self, intake: "Intake", file_id: str) -> None:
        self.file_id = file_id
        self._intake = intake
        self._limits = intake.limits
        self._writer = intake.blobs.create(content_key(file_id))
        self._scanner = LineScanner(lines_limit=self._limits.lines, custom_id_length=self._limits.custom_id_length)
        self._digest = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._size_bytes = 0
        self._storing: asyncio.Future[None] | None = None

    async def feed(self, data: bytes) -> None:
        """Take the next bytes; raises TooLarge past the limit, StoreUnavailable if the disk takes no more."""
        self._size_bytes += len(data)
        if self._size_bytes > self._limits.file_size_bytes:
            message = f"The file is larger than the limit of {self._limits.file_size_bytes} bytes."
            raise TooLarge(message, param="file")
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _PIECE_BYTES:
            await self._flush()

    async def seal(self, draft: File) -> File:
        """Make the file durable and give its row, with the facts of `draft` for who, what name and what purpose.

        Raises:
            InvalidInput: the draft names a SHA-256 that is not that of the bytes.
            Conflict: the file was sealed before, with other bytes.

        """
        await self._flush()
        await self._finish_storing()
        sha256 = self._digest.hexdigest()
        if draft.status is FileStatus.SEALED:
            if draft.sha256 != sha256:
                message = f"The file {draft.id} was uploaded before, with other bytes; upload these as a new file."
                raise Conflict(message, param="file", code="file_already_uploaded")
            return draft
        if draft.sha256 and draft.sha256 != sha256:
            message = f"The bytes have the SHA-256 {sha256}, but {draft.sha256} was announced."
            raise InvalidInput(message, param="checksum", code="checksum_mismatch")
        index, survey = self._scanner.finish()
        await asyncio.to_thread(self._seal_blobs, index.encode())
        file = msgspec.structs.replace(
            draft,
            status=FileStatus.SEALED,
            size_bytes=self._size_bytes,
            line_count=survey.lines,
            sha256=sha256,
            survey=msgspec.json.encode(survey),
        )
        await self._intake.record(file)
        return file

    def abort(self) -> None:
        """Drop what came so far, and let the next upload of this file begin; safe after `seal`, and twice."""
        if self._storing is not None:
            # Its thread goes on to the end of its piece; nobody asks any more how that went.
            self._storing.cancel()
        self._writer.abort()
        self._intake.release(self.file_id)

    async def _flush(self) -> None:
        """Look at the lines here, and hand the bytes to a worker thread that stores one piece while the next comes.

        The disk and the hash let go of the interpreter, so the two hardly wait for each other.
        """
        if not self._pieces:
            return
        data = b"".join(self._pieces)
        self._pieces, self._waiting_bytes = [], 0
        self._scanner.feed(data)
        await self._finish_storing()
        self._storing = asyncio.get_running_loop().run_in_executor(None, self._store, data)

    async def _finish_storing(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            await storing

    def _store(self, data: bytes) -> None:
        self._writer.write(data)
        self._digest.update(data)

    def _seal_blobs(self, index: bytes) -> None:
        self._intake.blobs.write(index_key(self.file_id), index)
        self._writer.seal()


class Intake:
    """The way in: reserve a file's id, receive its bytes."""

    def __init__(self, blobs: LocalBlobs, metadata: Metadata, limits: LimitsConfig) -> None:
        self.blobs = blobs
        self.limits = limits
        self._metadata = metadata
        self._under_way: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def reserve(self, draft: File) -> File:
        """Write the row of a file whose bytes will come later."""
        await self._metadata.add_file(draft)
        return draft

    def begin(self, file_id: str) -> Upload:
        """Start to receive a file's bytes; raises Conflict while another upload of the same file is under way."""
        if file_id in self._under_way:
            message = f"The file {file_id} is being uploaded already."
            raise Conflict(message, code="upload_in_progress")
        upload = Upload(self, file_id)
        self._under_way.add(file_id)
        return upload

    def is_receiving(self, file_id: str) -> bool:
        """Whether an upload of this file is under way."""
        return file_id in self._under_way

    def lock(self, file_id: str) -> asyncio.Lock:
        """For whoever completes or cancels this file: one at a time, and the next one waits."""
        found = self._locks.get(file_id)
        if found is None:
            found = self._locks[file_id] = asyncio.Lock()
        return found

    def release(self, file_id: str) -> None:
        """Forget that an upload is under way."""
        self._under_way.discard(file_id)

    async def record(self, file: File) -> None:
        """Write a sealed file's row: fill the reserved one, or add it."""
        if not await self._metadata.seal_file(file):
            await self._metadata.add_file(file)

    async def remove(self, file_id: str) -> None:
        """Remove a file; the row goes first: a crash in between leaves bytes that nobody sees, not a file without."""
        await self._metadata.delete_file(file_id)
        await asyncio.to_thread(self.blobs.delete_folder, file_prefix(file_id))
