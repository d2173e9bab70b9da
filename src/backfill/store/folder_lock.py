"""Who works on a data directory: one process alone, or several that share it."""

import fcntl
import os
import time
from pathlib import Path

from backfill.errors import StoreBusy, StoreUnavailable
from backfill.store.permissions import FILE_MODE, make_folder

__all__ = ["FolderLock"]

# While a first one that shares it tidies up, the others wait.
_PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.1


class FolderLock:
    """At most one process at a time works alone in a data directory, or any number that share it.

    The lock goes with the process, however it ends. May block for some seconds with `shares`.
    """

    def __init__(self, folder: Path, *, shares: bool = False, patience_s: float = _PATIENCE_S) -> None:
        """`shares`: others that share it may work there too, from `open_to_others` on.

        Raises:
            StoreBusy: another process works there, and at least one of the two wants to be alone.
            StoreUnavailable: the lock cannot be opened.

        """
        self._folder = folder
        path = folder / "lock"
        try:
            make_folder(folder)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            message = f"Cannot open {path}: {error.strerror or error}."
            raise StoreUnavailable(message) from error
        self.is_alone = True
        """Whether no other process is there."""
        if not self._take(fcntl.LOCK_EX):
            self.is_alone = False
            if not shares or not self._wait(patience_s):
                os.close(self._descriptor)
                raise _make_busy(folder, shares=shares)

    def open_to_others(self) -> None:
        """Let others in that share it; raises StoreBusy if one came in between that wants to be alone."""
        if self.is_alone:
            self.is_alone = False
            if not self._take(fcntl.LOCK_SH):
                raise _make_busy(self._folder, shares=True)

    def release(self) -> None:
        """Let another process in."""
        os.close(self._descriptor)

    def _wait(self, patience_s: float) -> bool:
        until_s = time.monotonic() + patience_s
        while not self._take(fcntl.LOCK_SH):
            if time.monotonic() > until_s:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return True

    def _take(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _make_busy(folder: Path, *, shares: bool) -> StoreBusy:
    who = "A Backfill process works alone" if shares else "Another Backfill process works"
    return StoreBusy(f"{who} in {folder}. Stop it, or choose another --data-dir.")
