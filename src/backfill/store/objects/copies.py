"""Whole blobs on the local disk, for what reads only files: pictures and clips that requests name."""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from backfill.store.disk import telling
from backfill.store.local_writer import LocalWriter
from backfill.store.objects.client import ObjectClient
from backfill.store.objects.reader import AHEAD_BYTES
from backfill.store.permissions import make_folder

__all__ = ["LocalCopies"]

_KEPT_MAX = 1000


class LocalCopies:
    """The copies that were used last. Each may go at any time, and is fetched again."""

    def __init__(self, client: ObjectClient, folder: Path) -> None:
        self._client = client
        self._folder = folder / "copies"

    def fetch(self, key: str) -> Path:
        """Where the copy lies; raises NotFound, and StoreUnavailable if either side fails."""
        found = self._client.head(key)
        # The name tells the content, so that a blob of the same key with other bytes is another copy.
        path = self._folder / f"{quote(key, safe='')}-{quote(found.version, safe='')}"
        with telling("write", path):
            make_folder(self._folder)
            with suppress(FileNotFoundError):
                os.utime(path)
                return path
            self._make_room()
            with LocalWriter(path) as writer:
                for offset in range(0, found.size_bytes, AHEAD_BYTES):
                    end = min(offset + AHEAD_BYTES, found.size_bytes)
                    writer.write(self._client.get(key, offset, end, found.version or None))
                writer.seal()
        return path

    def clear(self) -> None:
        """Remove all of them."""
        with suppress(FileNotFoundError):
            for path in list(self._folder.iterdir()):
                path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        paths = list(self._folder.iterdir())
        if len(paths) < _KEPT_MAX:
            return
        for path in sorted(paths, key=lambda one: one.stat().st_mtime_ns)[: len(paths) // 2]:
            path.unlink(missing_ok=True)
