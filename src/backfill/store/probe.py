"""Whether a disk takes and gives what is asked of it: tried, not guessed."""

import shutil
from pathlib import Path

from backfill.errors import StoreUnavailable
from backfill.store.disk import telling
from backfill.store.local_writer import LocalWriter

__all__ = ["ROOM_MIN_BYTES", "probe_folder"]

ROOM_MIN_BYTES = 16 * 1024 * 1024
"""A disk with less room is full, as far as anybody should send more: an upload may come to the end of it."""


def probe_folder(folder: Path) -> None:
    """Write, sync and remove a few bytes; raises StoreUnavailable. Blocks on disk."""
    with telling("look at", folder):
        room_bytes = shutil.disk_usage(folder).free
    if room_bytes < ROOM_MIN_BYTES:
        message = f"The disk of {folder} has only {room_bytes} bytes left."
        raise StoreUnavailable(message, code="disk_full")
    path = folder / "probe"
    with telling("write", path):
        writer = LocalWriter(path)
    with writer:
        writer.write(b"probe")
        writer.begin_sync()
        writer.sync()
