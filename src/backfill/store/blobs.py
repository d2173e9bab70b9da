"""Bytes on the local disk. A blob is whole or it is not there.

A blob is written to a temporary name, synced, renamed into place, and its folder is synced: after a power cut either
nothing or all of it can be read. Calls block and are meant for a worker thread, except `BlobReader.read` of a few
kilobytes, which costs less than the way to a thread.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from backfill.errors import NotFound, StoreBusy, StoreUnavailable
from backfill.store.faults import is_armed, reach

__all__ = ["AppendFile", "BlobReader", "BlobWriter", "FolderLock", "LocalBlobs"]

_TEMPORARY_SUFFIX = ".partial"
_WRITE_BACK_BYTES = 1 << 23
# What a caller of `read_on` is given to go on with, and how much of it lies before what was asked for: answers stand in
# a journal nearly in the order of their lines.
_WINDOW_BYTES = 1 << 18
_BEHIND_BYTES = 1 << 16
# A window costs as much as some ten reads: the next is loaded at once only if the last one answered so many, else after
# so many reads.
_WORTHWHILE_HITS = 16
_READS_BETWEEN = 64


class BlobWriter:
    """A blob that is being written; nobody sees it before `seal`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Two writers of one key must not meet in one temporary file.
        self._temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
        self._file = self._temporary.open("wb", buffering=1 << 18)
        self.size_bytes = 0
        self._begun_bytes = 0

    def write(self, data: bytes) -> None:
        """Append bytes; raises StoreUnavailable if the disk takes no more."""
        try:
            self._file.write(data)
            self.size_bytes += len(data)
            if self.size_bytes - self._begun_bytes >= _WRITE_BACK_BYTES:
                self._begin_write_back()
        except OSError as error:
            raise _unavailable("write", self._path, error) from error

    def _begin_write_back(self) -> None:
        """Have the disk begin on what is written, without waiting, so that little is left to do for `seal`."""
        self._file.flush()
        if hasattr(os, "posix_fadvise"):
            length = self.size_bytes - self._begun_bytes
            # On Linux this starts the writing of dirty pages, and drops only those that are clean already.
            os.posix_fadvise(self._file.fileno(), self._begun_bytes, length, os.POSIX_FADV_DONTNEED)
        self._begun_bytes = self.size_bytes

    def seal(self) -> None:
        """Make the blob durable and visible under its key, in one step."""
        try:
            self._file.flush()
            reach("blob.written")
            os.fsync(self._file.fileno())
            self._file.close()
            reach("blob.synced")
            self._temporary.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise _unavailable("write", self._path, error) from error
        reach("blob.sealed")

    def abort(self) -> None:
        """Drop what was written; safe after `seal`, and twice."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class BlobReader:
    """Random reads of one blob or segment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._window = b""
        self._window_offset = 0
        self._hits = 0
        self._reads = _READS_BETWEEN
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            message = f"There is no blob {path.name}."
            raise NotFound(message) from None
        except OSError as error:
            raise _unavailable("read", path, error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises StoreUnavailable if the disk fails."""
        try:
            data = os.pread(self._descriptor, length, offset)
            while data and len(data) < length:
                more = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise _unavailable("read", self._path, error) from error
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

    def sync(self) -> None:
        """Have the disk hold what can be read now, whoever wrote it; raises StoreUnavailable if it does not."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise _unavailable("sync", self._path, error) from error

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


class AppendFile:
    """A file that only grows. What `write` took survives the process, what `sync` took also the machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _sync_folder(path.parent)
        except OSError as error:
            raise _unavailable("create", path, error) from error
        reach("segment.created")

    def write(self, data: bytes) -> None:
        """Append all of `data`; after StoreUnavailable the file's tail is unknown and must not be written again."""
        if is_armed("segment.half_written"):
            os.write(self._descriptor, data[: len(data) // 2])
            reach("segment.half_written")
            data = data[len(data) // 2 :]
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            raise _unavailable("write", self._path, error) from error
        reach("segment.written")

    def sync(self) -> None:
        """Have the disk hold all that was written before the call."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise _unavailable("sync", self._path, error) from error
        reach("segment.synced")

    def close(self) -> None:
        """Give the descriptor back; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LocalBlobs:
    """Blobs under one folder. A key is a relative path with `/`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        _make_folder(root)

    def create(self, key: str) -> BlobWriter:
        """Begin a blob; one of the same key is replaced when it is sealed."""
        path = self._root / key
        _make_folder(path.parent)
        try:
            return BlobWriter(path)
        except OSError as error:
            raise _unavailable("create", path, error) from error

    def write(self, key: str, data: bytes) -> None:
        """Write a whole blob."""
        with self.create(key) as writer:
            writer.write(data)
            writer.seal()

    def open(self, key: str) -> BlobReader:
        """Open for random reads; raises NotFound."""
        return BlobReader(self._root / key)

    def read(self, key: str) -> bytes:
        """The whole blob; raises NotFound."""
        with self.open(key) as reader:
            return reader.read(0, reader.size_bytes)

    def append_to(self, key: str) -> AppendFile:
        """Create a file that grows; raises StoreUnavailable if the key exists."""
        path = self._root / key
        _make_folder(path.parent)
        return AppendFile(path)

    def list_folders(self, prefix: str) -> list[str]:
        """The names of the folders right under the folder `prefix`, sorted."""
        folder = self._root / prefix
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []

    def list(self, prefix: str) -> list[str]:
        """Keys of whole blobs and segments right under the folder `prefix`, sorted."""
        folder = self._root / prefix
        if not folder.is_dir():
            return []
        names = (entry.name for entry in folder.iterdir() if entry.is_file())
        return sorted(f"{prefix}/{name}" for name in names if not name.endswith(_TEMPORARY_SUFFIX))

    def sweep(self) -> int:
        """Remove what writers that died left half-written, and say how many; only while nobody else writes."""
        leftovers = list(self._root.rglob(f"*{_TEMPORARY_SUFFIX}"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def delete(self, key: str) -> None:
        """Remove a blob if it is there, and its folder if that was the last one in it."""
        path = self._root / key
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()

    def delete_folder(self, prefix: str) -> None:
        """Remove all blobs under a folder, and the folder; raises StoreUnavailable if something stays."""
        folder = self._root / prefix
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unavailable("remove", folder, error) from error

    def read_chunks(self, key: str, offset: int, length: int, chunk_bytes: int = 1 << 18) -> Iterator[bytes]:
        """The bytes from `offset` on, `length` of them, in pieces."""
        with self.open(key) as reader:
            end = offset + length
            while offset < end:
                data = reader.read(offset, min(chunk_bytes, end - offset))
                if not data:
                    return
                yield data
                offset += len(data)


class FolderLock:
    """At most one process at a time works in a data directory; the lock goes with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        _make_folder(folder)
        path = folder / "lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unavailable("open", path, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            message = f"Another Backfill process works in {folder}. Stop it, or choose another --data-dir."
            raise StoreBusy(message) from None

    def release(self) -> None:
        """Let another process in."""
        os.close(self._descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unavailable("create", folder, error) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(verb: str, path: Path, error: OSError) -> StoreUnavailable:
    message = f"Cannot {verb} {path}: {error.strerror or error}."
    return StoreUnavailable(message)
