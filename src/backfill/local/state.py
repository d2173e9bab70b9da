"""The state folder of a run without a server: a data directory of its own, which any later run can go on from."""

import shutil
from pathlib import Path

from backfill.errors import StoreBusy
from backfill.store import FolderLock

__all__ = ["LOCAL_OWNER", "discard_state", "find_state", "name_busy"]

LOCAL_OWNER = "local-run"
"""Whose the batches of a run are."""


def find_state(output_path: Path) -> Path:
    """Where the state folder of an output is, or would be."""
    return output_path.with_name(f"{output_path.name}.backfill")


def discard_state(output_path: Path) -> None:
    """Remove the state folder, if there is one, and what is left of an earlier removal; raises StoreBusy."""
    state = find_state(output_path)
    removed = state.with_name(f"{state.name}-removed")
    shutil.rmtree(removed, ignore_errors=True)
    if not state.is_dir():
        return
    try:
        lock = FolderLock(state)
    except StoreBusy:
        raise name_busy(output_path) from None
    try:
        state.rename(removed)
    finally:
        lock.release()
    shutil.rmtree(removed, ignore_errors=True)


def name_busy(output_path: Path) -> StoreBusy:
    """What is raised while another process is at the same run."""
    return StoreBusy(f"Another `backfill run` is writing {output_path}.")
