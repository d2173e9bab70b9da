"""A blob that is being written to the local disk. A blob is whole or it is not there.

It is written to a temporary name, synced, renamed into place, and its folder is synced: after a power cut either
nothing or all of it can be read.
"""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from backfill.store import disk
from backfill.store.disk import telling
from backfill.store.faults import reach
from backfill.store.permissions import FILE_MODE

__all__ = ["TEMPORARY_SUFFIX", "LocalWriter", "seal_together"]

TEMPORARY_SUFFIX = ".partial"
"""How the name of a blob ends that is not whole yet."""
_WRITE_BACK_BYTES = 1 << 23


class LocalWriter:
    """A blob that is being written; nobody sees it before `seal`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Two writers of one key must not meet in one temporary file.
        self._temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
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


def seal_together(writers: Sequence[LocalWriter]) -> None:
    """Make each blob durable and visible under its key; after StoreUnavailable some may be, and some not.

    Step by step for all of them: the first sync of a step makes the disk hold nearly all that the others ask for.
    """
    for writer in writers:
        writer.begin_sync()
    disk.sync_each(LocalWriter.sync, writers)
    for writer in writers:
        writer.rename()
    # One a folder: a file and the facts about it lie in the same.
    disk.sync_each(LocalWriter.sync_folder, list({writer.folder: writer for writer in writers}.values()))
    for writer in writers:
        writer.sync_name(sync_folder=False)
