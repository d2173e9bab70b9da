"""What an installation keeps, taken hold of: its rows and its files, which belong together and are in order."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import structlog

from backfill.config import Config
from backfill.errors import StoreUnavailable
from backfill.intake.belonging import check_place, mark_place
from backfill.intake.recovery import check_database, check_rows
from backfill.intake.sweeping import sweep_files
from backfill.store import (
    ApiKeys,
    Blobs,
    FolderLock,
    Metadata,
    choose_driver,
    close_to_others,
    open_blobs,
    read_place,
)

__all__ = ["OpenedStore", "open_store"]

_log = structlog.get_logger(__name__)


class OpenedStore(NamedTuple):
    """What an installation keeps, open until the stack ends."""

    lock: FolderLock
    blobs: Blobs
    metadata: Metadata
    keys: ApiKeys


async def open_store(config: Config, stack: AsyncExitStack, *, shares: bool) -> OpenedStore:
    """Take hold of the data directory; whoever is alone there at this moment sees to it that all is in order."""
    lock = await asyncio.to_thread(FolderLock, config.data_dir, shares=shares)
    stack.callback(lock.release)
    await _close_to_others(config.data_dir)
    blobs = await asyncio.to_thread(open_blobs, config.store, config.data_dir)
    stack.callback(blobs.close)
    metadata = await _open_metadata(config, stack, blobs, is_shared=not lock.is_alone)
    stored_keys = ApiKeys.open(metadata.database, config.data_dir)
    stack.callback(stored_keys.close)
    if lock.is_alone:
        await check_place(config.data_dir, metadata, blobs)
        await check_rows(config.data_dir, blobs, metadata)
        await mark_place(config.data_dir, metadata, blobs)
        await _sweep_blobs(blobs)
        if not config.store.is_remote:
            # No file is being made now: what no row names is what a crash left.
            await sweep_files(blobs, metadata)
    return OpenedStore(lock, blobs, metadata, stored_keys)


async def _open_metadata(config: Config, stack: AsyncExitStack, blobs: Blobs, *, is_shared: bool) -> Metadata:
    driver = choose_driver(config.store, config.data_dir)
    await asyncio.to_thread(check_database, config.data_dir, driver, blobs)
    holders = f"{read_place(config.data_dir)}:" if config.store.is_remote else ""
    metadata = await Metadata.open(driver, is_shared=is_shared, holders=holders, may_expand=True)
    stack.push_async_callback(metadata.close)
    return metadata


async def _sweep_blobs(blobs: Blobs) -> None:
    swept = await asyncio.to_thread(blobs.sweep)
    if swept:
        _log.info("removed half-written blobs of an earlier process", count=swept)


async def _close_to_others(data_dir: Path) -> None:
    try:
        closed = await asyncio.to_thread(close_to_others, data_dir)
    except OSError as error:
        message = f"The data directory {data_dir} cannot be read: {error.strerror}."
        raise StoreUnavailable(message) from None
    if closed.repaired:
        _log.warning(
            "files and folders were open to other users of the machine; they are no more",
            folder=str(data_dir),
            count=closed.repaired,
        )
    if closed.left:
        _log.warning(
            "files and folders are open to other users of the machine, and belong to another user",
            folder=str(data_dir),
            count=closed.left,
        )
