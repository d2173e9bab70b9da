"""An upload becomes a sealed file and its index, in one streaming pass."""

import asyncio
import functools
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec

from backfill.batch import File, FileStatus
from backfill.config import LimitsConfig, MediaConfig
from backfill.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from backfill.inflation import Unpacker, name_unpacked
from backfill.intake.file_limits import FileLimits, make_size_error
from backfill.intake.inputs import Inputs
from backfill.intake.scanner import LineScanner
from backfill.journal import JournalHolds
from backfill.purposes import OPAQUE_PURPOSES
from backfill.store import (
    Aging,
    Blobs,
    DataSize,
    Metadata,
    confirm_facts,
    content_key,
    file_prefix,
    index_key,
    parts_prefix,
    withdraw_facts,
    write_facts,
)
from backfill.turns import Duties

if TYPE_CHECKING:
    from backfill.intake.uploaded_tables import UploadedTables

__all__ = ["Intake", "Upload", "new_file_id"]

# Large enough that the way to a worker thread costs little, small enough that memory does not show it.
_PIECE_BYTES = 1 << 19


def new_file_id() -> str:
    """A file id in the form that Together gives."""
    return f"file-{uuid.uuid4()}"


class Upload:
    """Bytes on their way to become a file: `feed` them in order, then `seal` or `abort`.

    Requests that come compressed, as gzip or Zstandard, become the file that they are inflated.
    """

    def __init__(self, intake: "Intake", file_id: str, limits: FileLimits, purpose: str | None) -> None:
        self.file_id = file_id
        self._intake = intake
        self._limits = limits
        self._purpose = purpose
        self._size_limit_bytes = limits.size_of(purpose)
        self._writer = intake.blobs.create(content_key(file_id))
        self._scanner = None if purpose in OPAQUE_PURPOSES else _make_scanner(intake, limits)
        """None: what comes is a picture, a clip or a table."""
        self._unpacker = None if purpose in OPAQUE_PURPOSES else Unpacker()
        self._digest = hashlib.sha256()
        self._received_bytes = 0
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._size_bytes = 0
        self._storing: asyncio.Future[None] | None = None
        self._is_recorded = False
        """The file's row tells of the bytes."""

    async def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            TooLarge: they pass the limit, as they came or inflated.
            InvalidInput: they are compressed, and damaged.
            StoreUnavailable: the disk takes no more.

        """
        if self._unpacker is None:
            await self._take(data)
            return
        self._received_bytes += len(data)
        if self._received_bytes > self._size_limit_bytes:
            # There is no end of bytes that hold nothing.
            raise make_size_error(self._limits, self._purpose)
        for piece in self._unpacker.feed(data):
            await self._take(piece)

    async def _take(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._size_bytes > self._size_limit_bytes:
            raise make_size_error(self._limits, self._purpose)
        if self._size_bytes > self._limits.size_bytes:
            # Requests may not be so long, so that the purpose, which comes behind the bytes, will say media.
            self._scanner = None
        self._intake.data_size.note(len(data))
        self._intake.data_size.check_growth()
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _PIECE_BYTES:
            await self._flush()

    async def seal(self, draft: File) -> File:
        """Make the file durable and give its row, with the facts of `draft` for who, what name and what purpose.

        Raises:
            InvalidInput: the draft names a SHA-256 that is not that of the bytes, or is none of requests and
                there are no bytes; or the bytes are compressed and cut off.
            TooLarge: there are more bytes than a file of the draft's purpose may have.
            Conflict: the file was sealed before, with other bytes.

        """
        draft = await self._finish_unpacking(draft)
        await self._flush()
        await self._finish_storing()
        if self._size_bytes > self._limits.size_of(draft.purpose):
            raise make_size_error(self._limits, draft.purpose)
        if draft.purpose in OPAQUE_PURPOSES and not self._size_bytes:
            raise InvalidInput("The upload has no bytes.", param="file", code="empty_upload")
        if self._scanner is None and draft.purpose not in OPAQUE_PURPOSES:
            raise InvalidInput("The purpose is named twice, and differently.", param="purpose")
        sha256 = self._digest.hexdigest()
        if draft.status is FileStatus.SEALED:
            if draft.sha256 != sha256:
                message = f"The file {draft.id} was uploaded before, with other bytes; upload these as a new file."
                raise Conflict(message, param="file", code="file_already_uploaded")
            return draft
        # Of compressed bytes a client knows the hash as they are, or as they were.
        packed_sha256 = None if self._unpacker is None else self._unpacker.packed_sha256
        if draft.sha256 and draft.sha256 not in (sha256, packed_sha256):
            message = f"The bytes have the SHA-256 {sha256}, but {draft.sha256} was announced."
            raise InvalidInput(message, param="checksum", code="checksum_mismatch")
        file = msgspec.structs.replace(draft, status=FileStatus.SEALED, size_bytes=self._size_bytes, sha256=sha256)
        index = b""
        if self._scanner is not None and draft.purpose not in OPAQUE_PURPOSES:
            lines, survey = self._scanner.finish()
            file = msgspec.structs.replace(file, line_count=survey.lines, survey=msgspec.json.encode(survey))
            index = lines.encode()
        await asyncio.to_thread(self._seal_blobs, index, file)
        await self._intake.record(file)
        self._is_recorded = True
        return file

    def abort(self) -> None:
        """Drop what came so far, and let the next upload of this file begin; safe after `seal`, and twice."""
        if self._storing is not None:
            # Its thread goes on to the end of its piece; nobody asks any more how that went.
            self._storing.cancel()
        self._writer.abort()
        self._intake.release(self.file_id)
        if not self._is_recorded:
            # Removed by whoever tidies up, as the disk or the database may be out now.
            self._intake.leave(self.file_id)

    async def _finish_unpacking(self, draft: File) -> File:
        """Take what is held back; gives the draft with the name of the inflated file."""
        if self._unpacker is None:
            return draft
        for piece in self._unpacker.finish():
            await self._take(piece)
        if self._unpacker.packing is None:
            return draft
        if draft.purpose in OPAQUE_PURPOSES:
            message = f"The file is compressed; name the purpose {draft.purpose} before it, and it is kept as it is."
            raise InvalidInput(message, param="purpose")
        return msgspec.structs.replace(draft, filename=name_unpacked(draft.filename))

    async def _flush(self) -> None:
        """Look at the lines here, and hand the bytes to a worker thread that stores one piece while the next comes.

        The disk and the hash let go of the interpreter, so the two hardly wait for each other.
        """
        if not self._pieces:
            return
        data = b"".join(self._pieces)
        self._pieces, self._waiting_bytes = [], 0
        if self._scanner is not None:
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

    def _seal_blobs(self, index: bytes, file: File) -> None:
        if index:
            self._intake.blobs.write(index_key(self.file_id), index, sync_folder=False)
        write_facts(self._intake.blobs, file)
        self._writer.seal()
        if index:
            self._intake.inputs.note_sealed(self.file_id)


def _make_scanner(intake: "Intake", limits: FileLimits) -> LineScanner:
    return LineScanner(
        lines_limit=limits.lines,
        custom_id_length=intake.limits.custom_id_length,
        limit_name="the limit of your key" if limits.is_own else "limits.lines",
    )


def _make_conflict(file_id: str) -> Conflict:
    return Conflict(f"The file {file_id} is being uploaded already.", code="upload_in_progress")


class Intake:
    """The way in: reserve a file's id, receive its bytes."""

    def __init__(
        self,
        blobs: Blobs,
        metadata: Metadata,
        limits: LimitsConfig,
        data_size: DataSize | None = None,
        media: MediaConfig | None = None,
        duties: Duties | None = None,
    ) -> None:
        """`data_size` says whether there is room for more; without it there always is.

        `duties`: what this process does of that which one does at a time; None: there is no other process.
        """
        self.blobs = blobs
        self.data_size = data_size or DataSize(None)
        self.limits = limits
        self.inputs = Inputs(blobs, metadata, limits)
        media = media or MediaConfig()
        self._media_size_bytes = max(media.audio_size_bytes, media.picture_size_bytes)
        self.journal_holds = JournalHolds()
        """Journals that are being read."""
        self.duties = duties or Duties()
        self._metadata = metadata
        self._under_way: set[str] = set()
        self._left: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def reserve(self, draft: File) -> File:
        """Write the row of a file whose bytes will come later; raises StoreFull if none may."""
        self.data_size.check_room()
        try:
            await self._metadata.add_file(draft)
        except StoreUnavailable:
            self.leave(draft.id)
            raise
        return draft

    @functools.cached_property
    def tables(self) -> "UploadedTables":
        """The uploaded tables."""
        from backfill.intake.uploaded_tables import UploadedTables  # noqa: PLC0415 - few are ever asked for one

        return UploadedTables(self.blobs)

    @property
    def file_limits(self) -> FileLimits:
        """The server's own."""
        return FileLimits(self.limits.lines, self.limits.file_size_bytes, self._media_size_bytes)

    def begin(self, file_id: str, limits: FileLimits | None = None, purpose: str | None = None) -> Upload:
        """Start to receive a file's bytes, within these limits or the server's own.

        `purpose` is what the draft says in the end; None: that is not known before.

        Raises Conflict while another upload of the same file is under way, and StoreFull if the data directory holds
        nearly as much as it may.
        """
        self.data_size.check_room()
        if file_id in self._under_way:
            raise _make_conflict(file_id)
        try:
            upload = Upload(self, file_id, limits or self.file_limits, purpose)
        except StoreUnavailable:
            self.leave(file_id)
            raise
        self._under_way.add(file_id)
        return upload

    def is_receiving(self, file_id: str) -> bool:
        """Whether an upload of this file is under way."""
        return file_id in self._under_way

    @asynccontextmanager
    async def lock(self, file_id: str) -> AsyncIterator[None]:
        """For whoever completes or cancels this file: one at a time, of all processes, and the next one waits."""
        async with self._find_lock(file_id), self.duties.alone_at(f"file {file_id}"):
            yield

    @asynccontextmanager
    async def lock_if_free(self, file_id: str) -> AsyncIterator[bool]:
        """The same, but wait for no other process: whether none does anything with the file."""
        async with self._find_lock(file_id), self.duties.trying(f"file {file_id}") as is_free:
            yield is_free

    @asynccontextmanager
    async def receiving(self, file_id: str) -> AsyncIterator[None]:
        """For whoever receives the bytes of a reserved file; raises Conflict while another process does.

        One that died over it is waited for, so that a client who sends the bytes again at once need not know of it.
        """
        async with self.duties.trying(f"file {file_id}", patience_s=self.duties.patience_s) as is_free:
            if not is_free:
                raise _make_conflict(file_id)
            yield

    def _find_lock(self, file_id: str) -> asyncio.Lock:
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
        await asyncio.to_thread(confirm_facts, self.blobs, file.id)

    async def remove(self, file_id: str) -> bool:
        """Remove a file: first what would bring its row back, then the row, then the bytes, which nobody sees now.

        False, and the file stays, if a batch reads it that has not ended.
        """
        await asyncio.to_thread(withdraw_facts, self.blobs, file_id)
        try:
            removed = await Aging(self._metadata.database).delete_unread_file(file_id)
            if not removed:
                file = await self._metadata.get_file(file_id)
                if file.status is FileStatus.SEALED:
                    await asyncio.to_thread(write_facts, self.blobs, file)
                    await asyncio.to_thread(confirm_facts, self.blobs, file_id)
                return False
        finally:
            # Its bytes go now, or later if the disk does not let us; without its row there is no file.
            self.leave(file_id)
        with suppress(StoreUnavailable):
            await self.remove_left(file_id)
        return True

    async def remove_parts(self, file_id: str) -> None:
        """Remove the parts of a file that is complete, now or later."""
        self.leave(file_id)
        with suppress(StoreUnavailable):
            await self.remove_left(file_id)

    def leave(self, file_id: str) -> None:
        """Note that blobs of this file may have to go; what its row says decides (`remove_left`)."""
        self._left.add(file_id)

    @property
    def left(self) -> list[str]:
        """Files of which something may lie about."""
        return list(self._left)

    async def remove_left(self, file_id: str) -> None:
        """Remove what no row names: all that there is without a row, and the parts of a complete file.

        What lies under a reserved name stays: whoever reserved it sends the bytes again, which replaces it.

        Raises:
            StoreUnavailable: not now; the file stays noted.

        """
        if self.is_receiving(file_id):
            return
        try:
            file = await self._metadata.get_file(file_id)
        except NotFound:
            await asyncio.to_thread(self.blobs.delete_folder, file_prefix(file_id))
        else:
            if file.status is FileStatus.SEALED:
                await asyncio.to_thread(self.blobs.delete_folder, parts_prefix(file_id))
        self._left.discard(file_id)
