"""One process at a time on a data directory."""

import fcntl
import os
from pathlib import Path

from backfill.errors import StoreBusy, StoreUnavailable
from backfill.store.permissions import FILE_MODE, make_folder

__all__ = ["FolderLock"]


class FolderLock:
    """At most one process at a time works in a data directory; the lock goes with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        try:
            make_folder(folder)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            message = f"Cannot open {path}: {error.strerror or error}."
            raise StoreUnavailable(message) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            message = f"Another Backfill process works in {folder}. Stop it, or choose another --data-dir."
            raise StoreBusy(message) from None

    def release(self) -> None:
        """Let another process in."""
        os.close(self._descriptor)
