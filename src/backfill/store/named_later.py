"""A file on the local disk whose name says what was written, and is known only then."""

from pathlib import Path

from backfill.store.disk import make_unavailable, telling
from backfill.store.faults import reach
from backfill.store.local_writer import LocalWriter
from backfill.store.permissions import make_folder

__all__ = ["FileNamedLater", "is_unfinished", "remove_file"]

_UNFINISHED = "unnamed"


class FileNamedLater(LocalWriter):
    """A blob that is written first and named at its seal: whole or not there, as every blob."""

    def __init__(self, folder: Path) -> None:
        """Begin one; `folder` is made if there is none. Raises StoreUnavailable. Blocks on disk, as all of it does."""
        path = folder / _UNFINISHED
        with telling("create", path):
            make_folder(folder)
            super().__init__(path)

    def finish(self) -> Path:
        """Have the disk hold the bytes, and give the path at which they can be read until the seal."""
        self.begin_sync()
        self.sync()
        return self._temporary

    def seal_as(self, name: str) -> Path:
        """Make it visible under a name that no other file in the folder has had, and durable; after `finish`."""
        self._path = self._path.with_name(name)
        self.rename()
        self.sync_name()
        return self._path


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is one that was never sealed."""
    return name.startswith(f"{_UNFINISHED}.")


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises StoreUnavailable."""
    try:
        reach("blob.remove")
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise make_unavailable("remove", path, error) from error
