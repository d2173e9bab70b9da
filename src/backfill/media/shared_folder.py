"""A folder for what is fetched, where several processes share a data directory."""

import itertools
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from backfill.errors import StoreBusy
from backfill.store import FolderLock

__all__ = ["claim_folder"]


def claim_folder(data_dir: Path, stack: AsyncExitStack) -> Path:
    """One that no other process has now, until `stack` closes; that of one that is dead is taken with what it holds.

    What lies there is counted, trimmed and given away by what its process remembers.
    """
    for number in itertools.count(1):
        folder = data_dir / "media-shared" / str(number)
        with suppress(StoreBusy):
            stack.callback(FolderLock(folder).release)
            return folder
    raise AssertionError
