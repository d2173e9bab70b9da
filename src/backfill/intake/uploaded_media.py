"""Uploaded pictures and clips that requests name by their ids."""

import asyncio

from backfill.batch import File, FileStatus
from backfill.config import MediaConfig
from backfill.errors import NotFound
from backfill.media import MediaRefused, check_known, inspect_media
from backfill.media_file import MediaFile, MediaKind
from backfill.store import Blobs, Metadata, content_key

__all__ = ["UploadedMedia"]

_HEAD_BYTES = 4096
_STEMS = {MediaKind.PICTURE: "picture", MediaKind.AUDIO: "audio"}


class UploadedMedia:
    """Those of all owners. Nothing is copied: what an engine gets is read from where the upload lies."""

    def __init__(self, blobs: Blobs, metadata: Metadata, config: MediaConfig) -> None:
        self._blobs = blobs
        self._metadata = metadata
        self._config = config

    async def find(self, file_id: str, owner: str) -> MediaFile | None:
        """The file; None if the owner has none of this id.

        Raises:
            MediaRefused: it is no picture and no clip, or has another purpose, or no bytes came.
            StoreUnavailable: the disk or the database gives nothing now.

        """
        try:
            file = await self._metadata.get_file(file_id, owner)
        except NotFound:
            return None
        if not file.is_media:
            raise MediaRefused(
                f"The file {file_id} has the purpose {file.purpose}; upload pictures and clips as user_data or vision."
            )
        if file.status is not FileStatus.SEALED:
            raise MediaRefused(f"The file {file_id} has no content yet: no bytes were uploaded.")
        try:
            return await asyncio.to_thread(self._inspect, file)
        except NotFound:
            # It was deleted since its row was read.
            return None

    def _inspect(self, file: File) -> MediaFile:
        key, subject = content_key(file.id), f"The file {file.id}"
        with self._blobs.open(key) as reader:
            found = check_known(reader.read(0, _HEAD_BYTES), subject)
        path = self._blobs.fetch(key)
        facts = inspect_media(path, found.kind, self._config, subject)
        return MediaFile(
            path=path,
            filename=f"{_STEMS[found.kind]}.{found.extension}",
            media_type=found.media_type,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            width=facts.width,
            height=facts.height,
            duration_ms=facts.duration_ms,
        )
