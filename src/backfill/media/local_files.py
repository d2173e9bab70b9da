"""Pictures and clips on the user's own disk, named by paths: for runs without a server only, where nobody else asks."""

import asyncio
import hashlib
from pathlib import Path

from backfill.config import MediaConfig
from backfill.media.failures import MediaRefused
from backfill.media.formats import HEAD_BYTES
from backfill.media.inspection import check_known, inspect_media
from backfill.media.links import has_scheme
from backfill.media_file import MediaFile

__all__ = ["LocalFiles"]


class LocalFiles:
    """What lies beside the input of a run. Nothing is copied."""

    def __init__(self, folder: Path, config: MediaConfig) -> None:
        """`folder`: from where relative paths count."""
        self._folder = folder
        self._config = config

    def owns(self, source: str) -> bool:
        """Whether a source is a path: all but URLs are."""
        return not has_scheme(source)

    async def find(self, source: str) -> MediaFile:
        """The file; raises MediaRefused."""
        return await asyncio.to_thread(self._inspect, source)

    def _inspect(self, source: str) -> MediaFile:
        subject = f"The file {source}"
        try:
            path = self._folder / source
            if not path.is_file():
                raise MediaRefused(f"There is no file {source}.")
            with path.open("rb") as file:
                found = check_known(file.read(HEAD_BYTES), subject)
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            facts = inspect_media(path, found.kind, self._config, subject)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MediaRefused(f"{subject} cannot be read: {reason}.") from None
        return MediaFile(
            path=path,
            filename=f"{path.stem}.{found.extension}",
            media_type=found.media_type,
            size_bytes=path.stat().st_size,
            sha256=sha256,
            width=facts.width,
            height=facts.height,
            duration_ms=facts.duration_ms,
        )
