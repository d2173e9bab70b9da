"""A file that grows: a segment of a journal."""

import os
from contextlib import suppress
from pathlib import Path

from backfill.store.disk import make_unavailable, sync_folder, telling
from backfill.store.faults import is_armed, reach
from backfill.store.permissions import FILE_MODE

__all__ = ["AppendFile"]

_GROUP_WAIT_S = 0.2
# As many as a quick engine answers in that time: each sync takes the interpreter's lock from the event loop twice.
_GROUP_RECORDS = 2048


class AppendFile:
    """A file that only grows. What `write` took survives the process, what `sync` took also the machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with telling("create", path):
            reach("segment.create")
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, FILE_MODE
            )
        self._is_name_synced = False
        try:
            reach("segment.created")
        except OSError as error:
            self.discard()
            raise make_unavailable("create", path, error) from error

    @property
    def group_wait_s(self) -> float:
        """So long records wait for others to be synced with."""
        return _GROUP_WAIT_S

    @property
    def group_records(self) -> int:
        """So many records are synced at once without waiting for more."""
        return _GROUP_RECORDS

    def write(self, data: bytes) -> None:
        """Append all of `data`; after StoreUnavailable the file's tail is unknown and must not be written again."""
        try:
            reach("segment.write")
            if is_armed("segment.half_written"):
                os.write(self._descriptor, data[: len(data) // 2])
                reach("segment.half_written")
                data = data[len(data) // 2 :]
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            reach("segment.written")
        except OSError as error:
            raise make_unavailable("write", self._path, error) from error

    def begin_sync(self) -> None:
        """Have the disk begin on what was written, without waiting."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Have the disk hold all that was written before the call, and the file's name."""
        with telling("sync", self._path):
            reach("segment.sync")
            os.fdatasync(self._descriptor)
            if not self._is_name_synced:
                sync_folder(self._path.parent)
                self._is_name_synced = True
            reach("segment.synced")

    @property
    def size_bytes(self) -> int:
        """The size now, also after a write of which nobody knows how far it came."""
        return os.fstat(self._descriptor).st_size

    def end(self) -> None:
        """Nothing to do: to look how long a file is costs nothing."""

    def close(self) -> None:
        """Give the descriptor back; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close the file and remove it, if the disk lets us: for one in which nothing stands."""
        self.close()
        with suppress(OSError):
            self._path.unlink()
