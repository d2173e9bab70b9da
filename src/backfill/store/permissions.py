"""Who may read what lies in a data directory: its owner alone, from the first instant and whatever the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["FILE_MODE", "Closed", "close_to_others", "create_private", "make_folder"]

FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_OTHERS = 0o077


class Closed(NamedTuple):
    """What `close_to_others` found open: how much of it is closed now, and how much could not be."""

    repaired: int = 0
    left: int = 0


def make_folder(folder: Path) -> None:
    """Create a folder and the missing ones above it; what is there already stays as it is. Raises OSError."""
    try:
        folder.mkdir(_FOLDER_MODE)
    except FileNotFoundError:
        make_folder(folder.parent)
        make_folder(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise


def create_private(path: Path) -> None:
    """Have a file there, empty if there was none. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))


def close_to_others(folder: Path) -> Closed:
    """Take from everybody but the owner what an earlier version, a copy or an umask allowed on a folder's contents.

    Links are not followed. What belongs to another user stays as it is.
    """
    repaired = left = 0
    for path in (folder, *_find_below(folder)):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not mode & _OTHERS:
            continue
        try:
            path.chmod(mode & ~_OTHERS)
        except OSError:
            left += 1
        else:
            repaired += 1
    return Closed(repaired, left)


def _find_below(folder: Path) -> Iterator[Path]:
    """What is open to others under a folder; a data directory may hold many files, so each costs one look."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            if entry.stat(follow_symlinks=False).st_mode & _OTHERS:
                yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _find_below(Path(entry.path))
