"""Random reads of a blob or segment on the local disk."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from backfill.errors import NotFound
from backfill.store import disk
from backfill.store.disk import make_unavailable, telling
from backfill.store.faults import reach

__all__ = ["LocalReader"]

# What a caller of `read_on` is given to go on with, and how much of it lies before what was asked for: answers stand in
# a journal nearly in the order of their lines.
_WINDOW_BYTES = 1 << 18
_BEHIND_BYTES = 1 << 16
# A window costs as much as some ten reads: the next is loaded at once only if the last one answered so many, else after
# so many reads.
_WORTHWHILE_HITS = 16
_READS_BETWEEN = 64


class LocalReader:
    """Random reads of one blob or segment on the local disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._window = b""
        self._window_offset = 0
        self._hits = 0
        self._reads = _READS_BETWEEN
        try:
            reach("blob.read")
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            message = f"There is no blob {path.name}."
            raise NotFound(message) from None
        except OSError as error:
            raise make_unavailable("read", path, error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises StoreUnavailable if the disk fails."""
        # Once a request: a context manager would cost more than the read.
        try:
            reach("blob.read")
            data = os.pread(self._descriptor, length, offset)
            while data and len(data) < length:
                more = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise make_unavailable("read", self._path, error) from error
        return data

    def read_on(self, offset: int, length: int) -> bytes:
        """The same of bytes that change no more, for a caller that mostly goes forward: most calls need no disk.

        A caller that jumps, as one does that follows prefixes, is answered read by read.
        """
        start = offset - self._window_offset
        if start >= 0 and start + length <= len(self._window):
            self._hits += 1
            return self._window[start : start + length]
        self._reads += 1
        if self._hits < _WORTHWHILE_HITS and self._reads < _READS_BETWEEN:
            return self.read(offset, length)
        self._hits = self._reads = 0
        self._window_offset = max(0, offset - _BEHIND_BYTES)
        start = offset - self._window_offset
        self._window = self.read(self._window_offset, max(start + length, _WINDOW_BYTES))
        return self._window[start : start + length]

    def is_at_hand(self, offset: int, length: int) -> bool:  # noqa: ARG002 - it lies on the disk, wherever it is
        """A read costs less than the way to a worker thread."""
        return True

    def sync(self) -> None:
        """Have the disk hold what can be read now, whoever wrote it; raises StoreUnavailable if it does not."""
        with telling("sync", self._path):
            os.fdatasync(self._descriptor)
            # A segment that grows may have been synced by nobody yet: then its name is not on disk either.
            disk.sync_folder(self._path.parent)

    @property
    def size_bytes(self) -> int:
        """The size now: a segment may still grow."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Give the descriptor back; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
