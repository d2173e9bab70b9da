"""Blobs and journals in a folder of the local disk.

Calls block and are meant for a worker thread, except `LocalReader.read` of a few kilobytes and `LocalBlobs.look_at`,
which cost less than the way to a thread.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from backfill.errors import NotFound, StoreUnavailable
from backfill.store import disk
from backfill.store.append_file import AppendFile
from backfill.store.blobs import BlobMark, BlobWriter
from backfill.store.data_size import measure_folder
from backfill.store.disk import make_unavailable, telling
from backfill.store.faults import reach
from backfill.store.keys import REMOVED_PREFIX
from backfill.store.local_reader import LocalReader
from backfill.store.local_writer import TEMPORARY_SUFFIX, LocalWriter, seal_together
from backfill.store.permissions import make_folder
from backfill.store.probe import probe_folder

__all__ = ["LocalBlobs"]


class LocalBlobs:
    """Blobs under one folder. A key is a relative path with `/`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        _make_folder(root)

    @property
    def is_near(self) -> bool:
        """Small reads cost less than the way to a worker thread."""
        return True

    def close(self) -> None:
        """Nothing to give back."""

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def create(self, key: str) -> LocalWriter:
        """Begin a blob; one of the same key is replaced when it is sealed."""
        path = self._root / key
        _make_folder(path.parent)
        with telling("create", path):
            return LocalWriter(path)

    def write(self, key: str, data: bytes, *, sync_folder: bool = True) -> None:
        """Write a whole blob; `sync_folder` as for `BlobWriter.seal`."""
        with self.create(key) as writer:
            writer.write(data)
            writer.seal(sync_folder=sync_folder)

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write a whole blob if there is none, and give what is there; for who has the folder's lock."""
        if not self.exists(key):
            self.write(key, data)
        return self.read(key)

    def seal_together(self, writers: Sequence[BlobWriter]) -> None:
        """Seal blobs that `create` gave; after StoreUnavailable some may be there."""
        own = [writer for writer in writers if isinstance(writer, LocalWriter)]
        assert len(own) == len(writers)  # noqa: S101 - they are this store's own
        seal_together(own)

    def open(self, key: str) -> LocalReader:
        """Open for random reads; raises NotFound."""
        return LocalReader(self._root / key)

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
        # Nobody can set a change time.
        return BlobMark(found.st_size, (found.st_ino, found.st_ctime_ns))

    def read(self, key: str) -> bytes:
        """The whole blob; raises NotFound."""
        with self.open(key) as reader:
            return reader.read(0, reader.size_bytes)

    def fetch(self, key: str) -> Path:
        """Where the blob lies."""
        return self._root / key

    def append_to(self, key: str, header: bytes) -> AppendFile:
        """Create a file that grows, with these bytes; raises StoreUnavailable if the key exists."""
        path = self._root / key
        _make_folder(path.parent)
        file = AppendFile(path)
        try:
            file.write(header)
        except StoreUnavailable:
            file.discard()
            raise
        return file

    def list_folders(self, prefix: str) -> list[str]:
        """The names of the folders right under the folder `prefix`, sorted."""
        folder = self._root / prefix
        try:
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        except OSError as error:
            raise make_unavailable("list", folder, error) from error

    def find_folders(self, prefix: str, name: str) -> set[str]:
        """The names of the folders right under `prefix` that hold a blob `name`, or a folder with something in it."""
        return {folder for folder in self.list_folders(prefix) if self._holds(f"{prefix}/{folder}/{name}")}

    def _holds(self, key: str) -> bool:
        return self.exists(key) or bool(self.list(key))

    def list_settled(self, prefix: str, before_ms: int) -> Sequence[str]:
        """The names of the folders right under `prefix` in which nothing was written since then."""
        return [name for name in self.list_folders(prefix) if _find_change(self._root / prefix / name) < before_ms]

    def measure(self, prefix: str) -> int:
        """How many bytes lie under a folder; 0 if there is none."""
        return measure_folder(self._root / prefix)

    def sweep(self) -> int:
        """Remove what writers that died left half-written, and say how many; only while nobody else writes."""
        leftovers = list(self._root.rglob(f"*{TEMPORARY_SUFFIX}"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def list_segments(self, prefix: str) -> list[str]:
        """Keys of the segments right under the folder `prefix`, sorted."""
        return self.list(prefix)

    def open_segment(self, key: str) -> LocalReader:
        """Open a segment, which may still grow; raises NotFound."""
        return LocalReader(self._root / key)

    def remove_segments(self, prefix: str) -> None:
        """Remove a folder of segments, in one step for whoever lists it."""
        self.delete_folder(self.put_aside(prefix, REMOVED_PREFIX))

    def probe(self) -> None:
        """Try whether the disk takes bytes now; raises StoreUnavailable."""
        probe_folder(self._root)

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

    def list(self, prefix: str) -> list[str]:
        """Keys of whole blobs and segments right under the folder `prefix`, sorted."""
        folder = self._root / prefix
        try:
            names = [entry.name for entry in folder.iterdir() if entry.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise make_unavailable("list", folder, error) from error
        return sorted(f"{prefix}/{name}" for name in names if not name.endswith(TEMPORARY_SUFFIX))


def _make_folder(folder: Path) -> None:
    with telling("create", folder):
        make_folder(folder)


def _find_change(folder: Path) -> int:
    """When something was written in a folder for the last time, in milliseconds; what goes meanwhile counts as new."""
    with telling("look at", folder):
        try:
            return max(path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))) // 1_000_000
        except FileNotFoundError:
            return time.time_ns() // 1_000_000
