"""Result files appear whole or not at all, under the name that was asked for."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backfill.errors import Conflict, InvalidInput, StoreUnavailable

__all__ = ["check_target", "replacing"]

_TEMPORARY_SUFFIX = ".partial"
_REMEDIES = {
    errno.ENOSPC: "; free some space there, or choose another place, and go on with the same command",
    errno.EACCES: "; choose a folder in which this user may write",
    errno.EROFS: "; choose another place",
}


def check_target(path: Path, *, force: bool) -> None:
    """Raise Conflict if the file exists and may not be replaced, InvalidInput if it cannot be made at all."""
    if not path.parent.is_dir():
        message = f"The folder {path.parent} does not exist; make it, or choose another place."
        raise InvalidInput(message)
    if not os.path.lexists(path):
        return
    if not path.is_file():
        message = f"{path} is not a regular file; choose another name for the results."
        raise InvalidInput(message)
    if not force:
        message = f"{path} exists already. Use --force to replace it, or choose another name."
        raise Conflict(message, code="file_exists")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` once it is complete and on disk; raises StoreUnavailable."""
    # Always the same name: what a killed process left behind is written over by the next one.
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        message = f"Cannot write {path}: {error.strerror or error}{_REMEDIES.get(error.errno or 0, '')}."
        raise StoreUnavailable(message) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
