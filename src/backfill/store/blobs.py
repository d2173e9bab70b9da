"""Bytes on the local disk. A blob is whole or it is not there.

A blob is written to a temporary name, synced, renamed into place, and its folder is synced: after a power cut either
nothing or all of it can be read. Calls block and are meant for a worker thread, except `BlobReader.read` of a few
kilobytes, which costs less than the way to a thread.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from backfill.errors import NotFound
from backfill.store import disk
from backfill.store.append_file import AppendFile
from backfill.store.disk import make_unavailable, telling
from backfill.store.faults import reach
from backfill.store.permissions import FILE_MODE, make_folder

__all__ = ["BlobMark", "BlobReader", "BlobWriter", "LocalBlobs", "seal_together"]

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
        reach("blob.create")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._temporary, flags, FILE_MODE), "wb", buffering=1 << 18)
        self.size_bytes = 0
        self._begun_bytes = 0
        self._is_sealed = False

    def write(self, data: bytes) -> None:
        """Append bytes; raises StoreUnavailable if the disk takes no more."""
        with telling("write", self._path):
            reach("blob.write")
            self._file.write(data)
            self.size_bytes += len(data)
            if self.size_bytes - self._begun_bytes >= _WRITE_BACK_BYTES:
                self._begin_write_back()

    def _begin_write_back(self) -> None:
        """Have the disk begin on what is written, without waiting, so that little is left to do for `seal`."""
        self._file.flush()
        if hasattr(os, "posix_fadvise"):
            length = self.size_bytes - self._begun_bytes
            # On Linux this starts the writing of dirty pages, and drops only those that are clean already.
            os.posix_fadvise(self._file.fileno(), self._begun_bytes, length, os.POSIX_FADV_DONTNEED)
        self._begun_bytes = self.size_bytes

    def seal(self, *, sync_folder: bool = True) -> None:
        """Make the blob durable and visible under its key, in one step.

        Without `sync_folder` it is durable once another blob in the same folder is sealed.
        """
        self.begin_sync()
        self.sync()
        self.rename()
        self.sync_name(sync_folder=sync_folder)

    def sync(self) -> None:
        """Have the disk hold the bytes, under the temporary name; nothing more can be written."""
        with telling("write", self._path):
            os.fsync(self._file.fileno())
            self._file.close()
            reach("blob.synced")

    def begin_sync(self) -> None:
        """Have the disk begin on what is left."""
        with telling("write", self._path):
            self._begin_write_back()
            reach("blob.written")

    def rename(self) -> None:
        """Make the blob visible under its key."""
        with telling("write", self._path):
            self._temporary.replace(self._path)
            # Until the folder is synced it is as good as not there, and `abort` removes it.
            self._temporary = self._path

    def sync_name(self, *, sync_folder: bool = True) -> None:
        """Have the disk hold that it is."""
        if sync_folder:
            self.sync_folder()
        with telling("write", self._path):
            reach("blob.sealed")
            self._is_sealed = True

    def sync_folder(self) -> None:
        """Have the disk hold all names in the folder of the blob."""
        with telling("write", self._path):
            disk.sync_folder(self._path.parent)

    @property
    def folder(self) -> Path:
        """Where the blob lies."""
        return self._path.parent

    def abort(self) -> None:
        """Drop what was written; safe after `seal`, and twice."""
        if self._is_sealed:
            return
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


def seal_together(writers: Sequence[BlobWriter]) -> None:
    """Make each blob durable and visible under its key; after StoreUnavailable some may be, and some not.

    Step by step for all of them: the first sync of a step makes the disk hold nearly all that the others ask for.
    """
    for writer in writers:
        writer.begin_sync()
    disk.sync_each(BlobWriter.sync, writers)
    for writer in writers:
        writer.rename()
    # One a folder: a file and the facts about it lie in the same.
    disk.sync_each(BlobWriter.sync_folder, list({writer.folder: writer for writer in writers}.values()))
    for writer in writers:
        writer.sync_name(sync_folder=False)


class BlobMark(NamedTuple):
    """What a blob looks like from outside; another once its bytes have changed, for nobody can set a change time."""

    size_bytes: int
    inode: int
    changed_at_ns: int


class BlobReader:
    """Random reads of one blob or segment."""

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


class LocalBlobs:
    """Blobs under one folder. A key is a relative path with `/`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        _make_folder(root)

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def create(self, key: str) -> BlobWriter:
        """Begin a blob; one of the same key is replaced when it is sealed."""
        path = self._root / key
        _make_folder(path.parent)
        with telling("create", path):
            return BlobWriter(path)

    def write(self, key: str, data: bytes, *, sync_folder: bool = True) -> None:
        """Write a whole blob; `sync_folder` as for `BlobWriter.seal`."""
        with self.create(key) as writer:
            writer.write(data)
            writer.seal(sync_folder=sync_folder)

    def open(self, key: str) -> BlobReader:
        """Open for random reads; raises NotFound."""
        return BlobReader(self._root / key)

    def look_at(self, key: str) -> BlobMark:
        """What the blob looks like; raises NotFound. Costs a few microseconds."""
        path = self._root / key
        try:
            found = path.stat()
        except FileNotFoundError:
            message = f"There is no blob {path.name}."
            raise NotFound(message) from None
        except OSError as error:
            raise make_unavailable("read", path, error) from error
        return BlobMark(found.st_size, found.st_ino, found.st_ctime_ns)

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
        try:
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        except OSError as error:
            raise make_unavailable("list", folder, error) from error

    def list(self, prefix: str) -> list[str]:
        """Keys of whole blobs and segments right under the folder `prefix`, sorted."""
        folder = self._root / prefix
        try:
            names = [entry.name for entry in folder.iterdir() if entry.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise make_unavailable("list", folder, error) from error
        return sorted(f"{prefix}/{name}" for name in names if not name.endswith(_TEMPORARY_SUFFIX))

    def sweep(self) -> int:
        """Remove what writers that died left half-written, and say how many; only while nobody else writes."""
        leftovers = list(self._root.rglob(f"*{_TEMPORARY_SUFFIX}"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def delete(self, key: str) -> None:
        """Remove a blob if it is there, and its folder if that was the last one in it; raises StoreUnavailable."""
        path = self._root / key
        try:
            reach("blob.remove")
            path.unlink(missing_ok=True)
        except OSError as error:
            raise make_unavailable("remove", path, error) from error
        with suppress(OSError):
            path.parent.rmdir()

    def remove_all(self, keys: Iterable[str], prefix: str) -> None:
        """Remove blobs of one folder, those of them that are there, so that no power cut brings them back."""
        folder = self._root / prefix
        if not folder.is_dir():
            return
        try:
            for key in keys:
                (self._root / key).unlink(missing_ok=True)
            disk.sync_folder(folder)
        except OSError as error:
            raise make_unavailable("change", folder, error) from error

    def exists(self, key: str) -> bool:
        """Whether there is such a blob."""
        return (self._root / key).is_file()

    def rename(self, key: str, new_key: str) -> None:
        """Give a blob another name in its folder; a power cut may take that back. Raises NotFound."""
        try:
            (self._root / key).replace(self._root / new_key)
        except FileNotFoundError:
            message = f"There is no blob {key}."
            raise NotFound(message) from None
        except OSError as error:
            raise make_unavailable("rename", self._root / key, error) from error

    def put_aside(self, prefix: str, place: str) -> str:
        """Move a folder with all that is in it under the folder `place`; its name there begins with the time, in ms."""
        folder = self._root / prefix
        name = f"{time.time_ns() // 1_000_000}-{folder.parent.name}-{folder.name}"
        _make_folder(self._root / place)
        try:
            folder.rename(self._root / place / name)
            disk.sync_folder(self._root / place)
            disk.sync_folder(folder.parent)
        except OSError as error:
            raise make_unavailable("move", folder, error) from error
        return f"{place}/{name}"

    def delete_folder(self, prefix: str) -> None:
        """Remove all blobs under a folder, and the folder; raises StoreUnavailable if something stays."""
        folder = self._root / prefix
        try:
            reach("blob.remove")
            while folder.exists():
                # Another may remove it at the same time, and then neither gets all of it.
                with suppress(FileNotFoundError):
                    shutil.rmtree(folder)
        except OSError as error:
            raise make_unavailable("remove", folder, error) from error

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


def _make_folder(folder: Path) -> None:
    with telling("create", folder):
        make_folder(folder)
