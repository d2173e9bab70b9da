"""What files have in common: a folder that holds their names, and errors that say what could not be done."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from backfill.errors import StoreUnavailable

__all__ = ["make_unavailable", "sync_each", "sync_folder", "telling"]

_SYNCS_AT_ONCE = 8
# So many are sooner done one after the other.
_FEW_SYNCS = 4
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def telling(verb: str, path: Path) -> Iterator[None]:
    """Turn an error of the disk into StoreUnavailable that says what could not be done to which file."""
    try:
        yield
    except OSError as error:
        raise make_unavailable(verb, path, error) from error


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_each(sync: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """What `sync` gives for each item, several at once: syncs that meet share what the disk has to do for them."""
    if len(items) <= _FEW_SYNCS:
        return [sync(item) for item in items]
    return list(_open_threads().map(sync, items))


@functools.cache
def _open_threads() -> ThreadPoolExecutor:
    """They stay: to begin eight costs as much as some syncs."""
    return ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="sync")


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads.
    os.register_at_fork(after_in_child=_open_threads.cache_clear)


def make_unavailable(verb: str, path: Path, error: OSError) -> StoreUnavailable:
    """What `telling` raises."""
    message = f"Cannot {verb} {path}: {error.strerror or error}."
    return StoreUnavailable(message)
