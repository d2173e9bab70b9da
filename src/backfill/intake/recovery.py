"""A database that has lost rows: noticed before anything is changed, and put right from what lies beside the files.

A file's facts lie beside its content (`store.facts`), and a journal is begun only after its batch has a row. So what is
told of as safe and has no row says that the database is new, empty or an older copy.
"""

import asyncio
import hashlib
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from backfill.batch import File, FileStatus
from backfill.config import StoreConfig
from backfill.errors import InvalidInput, NotFound, RowsLost, StoreBusy
from backfill.intake.belonging import claim_place
from backfill.purposes import OPAQUE_PURPOSES
from backfill.store import (
    FACTS,
    FILES_PREFIX,
    JOURNALS_PREFIX,
    PENDING_FACTS,
    Blobs,
    Driver,
    FolderLock,
    LocalBlobs,
    Metadata,
    confirm_facts,
    content_key,
    facts_key,
    file_prefix,
    find_others,
    journal_prefix,
    open_blobs,
    pending_facts_key,
    read_facts,
    read_place,
)

__all__ = ["Recovery", "check_database", "check_rows", "recover"]

_PIECE_BYTES = 1 << 20


class Recovery(NamedTuple):
    """What was, or would be, done about a database that has lost rows."""

    adopted: list[File]
    """They have a row again."""
    repeated: list[File]
    """Results of batches that have not ended in this database: they are gathered again."""
    damaged: dict[str, str]
    """Id of a file that cannot be had again -> why not. Its folder is put aside."""
    journals: list[str]
    """Ids of batches that have no row: their journals are put aside."""


def check_database(data_dir: Path, driver: Driver, blobs: Blobs | None = None) -> None:
    """Raise RowsLost if there are files or journals, but no database; before anything is opened, created or removed."""
    reason = driver.find_loss()
    if reason is None:
        return
    blobs = blobs or LocalBlobs(data_dir / "blobs")
    files, journals = blobs.list_folders(FILES_PREFIX), blobs.list_folders(JOURNALS_PREFIX)
    if files or journals:
        raise _name_loss(data_dir, driver, f"is {reason}", len(files), len(journals))


async def check_rows(data_dir: Path, blobs: Blobs, metadata: Metadata) -> None:
    """Raise RowsLost if files or batches that clients were told of have no row. Others may be at work."""
    # Blobs first: a row is there before its facts and its journal.
    files = await asyncio.to_thread(blobs.find_folders, FILES_PREFIX, FACTS)
    folders = set(await asyncio.to_thread(blobs.list_folders, JOURNALS_PREFIX))
    files -= await metadata.list_file_ids(FileStatus.SEALED)
    if files:
        # Of a file that somebody has removed meanwhile the facts went first.
        files &= await asyncio.to_thread(blobs.find_folders, FILES_PREFIX, FACTS)
    journals = await asyncio.to_thread(_keep_journals, blobs, folders - await metadata.list_batch_ids())
    if files or journals:
        driver = metadata.database.driver
        raise _name_loss(data_dir, driver, "is older than what lies beside it", len(files), len(journals))


async def recover(data_dir: Path, driver: Driver, store: StoreConfig | None = None, *, is_trial: bool) -> Recovery:
    """Make rows again of what lies beside the files, and put aside what has none; a trial only says what would be done.

    Raises:
        InvalidInput: there is no such data directory.
        StoreBusy: another process works in it.
        StoreUnavailable: it or its database cannot be read or written.

    """
    if not await asyncio.to_thread(data_dir.is_dir):
        message = f"There is no data directory {data_dir}."
        raise InvalidInput(message, param="data_dir")
    with ExitStack() as stack:
        stack.callback(FolderLock(data_dir).release)
        blobs = await asyncio.to_thread(open_blobs, store or StoreConfig(), data_dir)
        stack.callback(blobs.close)
        is_lost = await asyncio.to_thread(driver.find_loss) is not None
        if is_lost and is_trial:
            return await asyncio.to_thread(_judge, blobs, _Rows(), is_lost=True)
        if is_lost:
            await asyncio.to_thread(driver.put_aside)
        metadata = await Metadata.open(driver, holders=await asyncio.to_thread(read_place, data_dir))
        try:
            await _check_alone(data_dir, metadata)
            rows = await _read_rows(metadata)
            recovery = await asyncio.to_thread(_judge, blobs, rows, is_lost=is_lost)
            if not is_trial:
                await _carry_out(recovery, blobs, metadata)
                await claim_place(data_dir, metadata, blobs)
        finally:
            await metadata.close()
        return recovery


async def _check_alone(data_dir: Path, metadata: Metadata) -> None:
    """Raise StoreBusy if processes elsewhere work on the rows."""
    database = metadata.database
    if not database.many_writers:
        return
    place = await asyncio.to_thread(read_place, data_dir)
    now = database.now_ms()
    if await database.look(lambda connection: find_others(connection, place, now)):
        message = (
            f"Other Backfill processes work on the database {database.driver.name}. Stop all of them first. One that "
            "was killed counts until its leases are over (server.lease_s)."
        )
        raise StoreBusy(message)


class _Rows(NamedTuple):
    sealed_files: frozenset[str] = frozenset()
    batches: frozenset[str] = frozenset()
    unended: frozenset[str] = frozenset()


async def _read_rows(metadata: Metadata) -> _Rows:
    sealed = await metadata.list_file_ids(FileStatus.SEALED)
    batches, unended = await metadata.list_batch_ids(), await metadata.list_batch_ids(only_unended=True)
    return _Rows(frozenset(sealed), frozenset(batches), frozenset(unended))


def _judge(blobs: Blobs, rows: _Rows, *, is_lost: bool) -> Recovery:
    # Without any row nobody knows which of the pending ones a client was told of: better one too many.
    found = blobs.find_folders(FILES_PREFIX, FACTS)
    if is_lost:
        found |= blobs.find_folders(FILES_PREFIX, PENDING_FACTS)
    recovery = Recovery([], [], {}, sorted(_find_journals(blobs, rows.batches)))
    for file_id in sorted(found - rows.sealed_files):
        file = read_facts(blobs, file_id)
        if file is None or file.id != file_id:
            recovery.damaged[file_id] = "what lies beside its content cannot be read"
        elif (
            not file.survey and file.purpose not in OPAQUE_PURPOSES and file.filename.partition("_")[0] in rows.unended
        ):
            recovery.repeated.append(file)
        elif reason := _find_damage(blobs, file):
            recovery.damaged[file_id] = reason
        else:
            recovery.adopted.append(file)
    return recovery


async def _carry_out(recovery: Recovery, blobs: Blobs, metadata: Metadata) -> None:
    for file in recovery.adopted:
        if not await metadata.seal_file(file):
            await metadata.add_file(file)
        await asyncio.to_thread(confirm_facts, blobs, file.id)
    for file in recovery.repeated:
        await asyncio.to_thread(blobs.rename, facts_key(file.id), pending_facts_key(file.id))
    for file_id in recovery.damaged:
        await asyncio.to_thread(blobs.put_aside, file_prefix(file_id), "unrecovered")
    for batch_id in recovery.journals:
        await asyncio.to_thread(blobs.put_aside, journal_prefix(batch_id), "unrecovered")


def _find_journals(blobs: Blobs, known: AbstractSet[str]) -> set[str]:
    """The batches that have a journal, and are not known."""
    return _keep_journals(blobs, set(blobs.list_folders(JOURNALS_PREFIX)) - known)


def _keep_journals(blobs: Blobs, folders: set[str]) -> set[str]:
    """Without those in which nothing is."""
    return {batch_id for batch_id in folders if blobs.is_near or blobs.list_segments(journal_prefix(batch_id))}


def _find_damage(blobs: Blobs, file: File) -> str | None:
    digest = hashlib.sha256()
    try:
        size_bytes = blobs.look_at(content_key(file.id)).size_bytes
        for piece in blobs.read_chunks(content_key(file.id), 0, size_bytes, _PIECE_BYTES):
            digest.update(piece)
    except NotFound:
        return "its content is gone"
    if size_bytes != file.size_bytes:
        return f"its content has {size_bytes} bytes instead of {file.size_bytes}"
    return None if digest.hexdigest() == file.sha256 else "its content is not what was uploaded"


def _name_loss(data_dir: Path, driver: Driver, how: str, files: int, batches: int) -> RowsLost:
    return RowsLost(
        f"The database {driver.name} {how}: {files} files and {batches} batches have no row in it. "
        "Nothing was removed. Put the right database back, or take in again what can be had: "
        f"`backfill recover --data-dir {data_dir} --dry-run` lists it, and without --dry-run does it."
    )
