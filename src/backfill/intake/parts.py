"""A file that comes in parts: each part is a blob of its own, and once all are here they go through intake in order.

What is known of such an upload lies on disk alone, as a reserved file's row, its plan and its parts, so that a client
goes on after a restart of the server where it was. The ids of the upload and of the file name each other.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from backfill.batch import File, FileStatus
from backfill.errors import Conflict, InvalidInput, NotFound, StoreUnavailable, TooLarge
from backfill.intake.file_limits import FileLimits, make_size_error
from backfill.intake.upload import Intake, Upload
from backfill.store import BlobWriter, Metadata, part_key, parts_prefix, upload_plan_key

__all__ = [
    "Part",
    "PartUploads",
    "PartWriter",
    "StartedUpload",
    "UploadPlan",
    "make_part_error",
    "new_part_id",
    "upload_id_of",
]

_PIECE_BYTES = 1 << 18
# Parts that a client sends again may lie beside those of the first try, but not without end.
_STORED_SHARE_MAX = 2
_UPLOAD_PREFIX = "upload_"
_FILE_PREFIX = "file-"


class UploadPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was announced of a file that comes in parts."""

    size_bytes: int
    expires_at_ms: int
    """When what has come is removed, if the file is not complete by then."""
    part_count: int | None = None
    """None: any number of parts, named by the server."""
    keep_s: int | None = None
    """How long the file is kept once it is complete; None: until it is deleted."""


class StartedUpload(NamedTuple):
    """An upload in parts: the row of its file, reserved or sealed, and its plan."""

    file: File
    plan: UploadPlan

    @property
    def upload_id(self) -> str:
        """What clients call it."""
        return upload_id_of(self.file.id)


class Part(NamedTuple):
    """A part as the client names it at the end."""

    name: str
    etag: str | None = None
    """What the server called its bytes; None: the client does not say."""


class PartWriter:
    """Bytes on their way to become a part: `feed` them in order, then `seal` or `abort`."""

    def __init__(self, writer: BlobWriter, room_bytes: int) -> None:
        self._writer = writer
        self._room_bytes = room_bytes
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    async def feed(self, data: bytes) -> None:
        """Take the next bytes; raises TooLarge if the parts hold more than the whole file."""
        self.size_bytes += len(data)
        if self.size_bytes > self._room_bytes:
            raise make_part_error(self._room_bytes)
        await asyncio.to_thread(self._take, data)

    async def seal(self) -> str:
        """Make the part durable, and give its ETag."""
        if not self.size_bytes:
            raise InvalidInput("The part has no bytes.", param="part", code="empty_upload")
        await asyncio.to_thread(self._writer.seal)
        return self._digest.hexdigest()

    def abort(self) -> None:
        """Drop what came; safe after `seal`, and twice."""
        self._writer.abort()

    def _take(self, data: bytes) -> None:
        self._writer.write(data)
        self._digest.update(data)


class PartUploads:
    """Start an upload in parts, receive them, and make them one file."""

    def __init__(self, intake: Intake, metadata: Metadata) -> None:
        self._intake = intake
        self._blobs = intake.blobs
        self._metadata = metadata

    async def start(self, draft: File, plan: UploadPlan, limits: FileLimits | None = None) -> StartedUpload:
        """Reserve the file; raises TooLarge if it may not be as large, by these limits or the server's own."""
        limits = limits or self._intake.file_limits
        if plan.size_bytes > limits.size_of(draft.purpose):
            raise make_size_error(limits, draft.purpose, "file_size")
        # The plan goes first: a row without one could never be completed.
        try:
            await asyncio.to_thread(self._blobs.write, upload_plan_key(draft.id), msgspec.json.encode(plan))
        except StoreUnavailable:
            self._intake.leave(draft.id)
            raise
        # Until the file is complete its row expires with the upload.
        file = await self._intake.reserve(msgspec.structs.replace(draft, expires_at_ms=plan.expires_at_ms))
        return StartedUpload(file, plan)

    async def find(self, upload_id: str, owner: str | None = None) -> StartedUpload:
        """An upload that was started; raises NotFound if there is none, or it is another owner's."""
        with suppress(NotFound, ValueError):
            file = await self._metadata.get_file(_file_id_of(upload_id), owner)
            plan = await asyncio.to_thread(self._blobs.read, upload_plan_key(file.id))
            return StartedUpload(file, msgspec.json.decode(plan, type=UploadPlan))
        raise NotFound(f"No such upload: {upload_id}.", param="upload_id")

    async def receive(self, upload: StartedUpload, name: str) -> PartWriter:
        """Begin a part; one of the same name is replaced once this one is sealed."""
        _check_pending(upload)
        self._intake.data_size.check_room()
        stored_bytes = await asyncio.to_thread(self._measure, upload.file.id)
        if stored_bytes >= upload.plan.size_bytes * _STORED_SHARE_MAX:
            message = (
                f"The parts of this upload hold {stored_bytes} bytes, but {upload.plan.size_bytes} were "
                "announced for the whole file; complete it or start anew."
            )
            raise TooLarge(message, param="part")
        writer = await asyncio.to_thread(self._blobs.create, part_key(upload.file.id, name))
        return PartWriter(writer, upload.plan.size_bytes)

    async def complete(
        self, upload: StartedUpload, parts: Sequence[Part], *, md5: str | None = None, limits: FileLimits | None = None
    ) -> File:
        """Make one file of these parts, in this order. A client that asks again gets the same file.

        Raises:
            InvalidInput: a part is missing or is not the one that was sent, or size or checksum are not as announced.

        """
        # A client whose first request timed out waits here for what that one comes to.
        async with self._intake.lock(upload.file.id):
            upload = await self.find(upload.upload_id, upload.file.owner)
            file = upload.file
            if file.status is FileStatus.RESERVED:
                file = await self._assemble(upload, parts, md5, limits)
            await self._intake.remove_parts(file.id)
            return file

    async def cancel(self, upload: StartedUpload) -> None:
        """Remove the upload and its parts."""
        async with self._intake.lock(upload.file.id):
            _check_pending(await self.find(upload.upload_id, upload.file.owner))
            await self._intake.remove(upload.file.id)

    async def _assemble(
        self, upload: StartedUpload, parts: Sequence[Part], md5: str | None, limits: FileLimits | None
    ) -> File:
        names = await asyncio.to_thread(self._check_present, upload, parts)
        receiving = self._intake.begin(upload.file.id, limits, upload.file.purpose)
        try:
            whole = hashlib.md5(usedforsecurity=False)
            for part in names:
                await self._feed_part(receiving, upload.file.id, part, whole)
            if md5 is not None and whole.hexdigest() != md5.lower():
                message = f"The bytes have the MD5 {whole.hexdigest()}, but {md5} was announced."
                raise InvalidInput(message, param="md5", code="checksum_mismatch")
            keep_s = upload.plan.keep_s
            expires_at_ms = None if keep_s is None else upload.file.created_at_ms + keep_s * 1000
            return await receiving.seal(msgspec.structs.replace(upload.file, expires_at_ms=expires_at_ms))
        finally:
            receiving.abort()

    def _check_present(self, upload: StartedUpload, parts: Sequence[Part]) -> Sequence[Part]:
        """Before any byte is read: are all parts here, and is it the size that was announced?"""
        size_bytes = 0
        for part in parts:
            try:
                size_bytes += self._blobs.look_at(part_key(upload.file.id, part.name)).size_bytes
            except NotFound:
                raise InvalidInput(f"Part {part.name} was not uploaded.", param="parts", code="missing_part") from None
        if size_bytes != upload.plan.size_bytes:
            message = f"The parts have {size_bytes} bytes together, but {upload.plan.size_bytes} were announced."
            raise InvalidInput(message, param="parts", code="size_mismatch")
        return parts

    async def _feed_part(self, receiving: Upload, file_id: str, part: Part, whole: "hashlib._Hash") -> None:
        digest = hashlib.sha256()
        reader = await asyncio.to_thread(self._blobs.open, part_key(file_id, part.name))
        with reader:
            offset = 0
            while data := await asyncio.to_thread(reader.read, offset, _PIECE_BYTES):
                offset += len(data)
                await asyncio.to_thread(_update, data, digest, whole)
                await receiving.feed(data)
        if part.etag is not None and part.etag.strip('"') != digest.hexdigest():
            message = f"Part {part.name} is not the one that was uploaded: its ETag is {digest.hexdigest()}."
            raise InvalidInput(message, param="parts", code="wrong_etag")

    def _measure(self, file_id: str) -> int:
        return self._blobs.measure(parts_prefix(file_id))


def make_part_error(announced_bytes: int) -> TooLarge:
    """For a part that is larger than the whole file was said to be."""
    return TooLarge(f"The part is larger than the {announced_bytes} bytes announced for the whole file.", param="part")


def upload_id_of(file_id: str) -> str:
    """The id of the upload of which this file comes."""
    return _UPLOAD_PREFIX + uuid.UUID(file_id.removeprefix(_FILE_PREFIX)).hex


def new_part_id() -> str:
    """A name for a part that has no number."""
    return f"part_{uuid.uuid4().hex}"


def _file_id_of(upload_id: str) -> str:
    """Raises ValueError for what is no id of an upload."""
    digits = upload_id.removeprefix(_UPLOAD_PREFIX)
    file_id = f"{_FILE_PREFIX}{uuid.UUID(digits)}"
    if upload_id_of(file_id) != upload_id:
        raise ValueError(upload_id)
    return file_id


def _check_pending(upload: StartedUpload) -> None:
    if upload.file.status is not FileStatus.RESERVED:
        message = f"The upload {upload.upload_id} is complete: it is the file {upload.file.id}."
        raise Conflict(message, code="file_already_uploaded")


def _update(data: bytes, *digests: "hashlib._Hash") -> None:
    for digest in digests:
        digest.update(data)
