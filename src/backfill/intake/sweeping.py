"""What a crash left of files that never came to be: put aside where no row names it.

Who is alone does it at the start, when no file is being made. Where processes work on several machines there is no
such moment: there it is done now and then, with what nobody has written to for long.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import structlog

from backfill.batch import File, FileStatus
from backfill.errors import NotFound, StoreUnavailable
from backfill.intake.upload import Intake
from backfill.store import (
    CONTENT,
    FACTS,
    FILES_PREFIX,
    PARTS,
    PENDING_FACTS,
    QUARANTINE_PREFIX,
    Blobs,
    Metadata,
    confirm_facts,
    file_prefix,
    parts_prefix,
    write_facts,
)

__all__ = ["Sweeper", "sweep_files"]

_PERIOD_S = 3600.0
# From the first blob of a file to its row it takes seconds; an upload that takes days has none before its end.
_SETTLED_MS = 24 * 3_600_000
_log = structlog.get_logger(__name__)


class Sweeper:
    """For an installation that is never alone."""

    def __init__(self, intake: Intake, metadata: Metadata, *, settled_ms: int = _SETTLED_MS) -> None:
        """`settled_ms`: so long nothing was written to what is put aside."""
        self._intake = intake
        self._metadata = metadata
        self._settled_ms = settled_ms
        self._next_s = float("-inf")

    async def sweep_now_and_then(self) -> None:
        """As `sweep`, if the last time is an hour ago; raises StoreUnavailable."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._next_s:
            await self.sweep()
            self._next_s = now_s + _PERIOD_S

    async def sweep(self) -> int:
        """Put aside blobs without a row, remove parts of files that are complete; says how often."""
        metadata = self._metadata
        found = await asyncio.to_thread(self._look, metadata.database.now_ms() - self._settled_ms)
        # Blobs first: what has got its row in between is no leftover.
        known, sealed = await metadata.list_file_ids(), await metadata.list_file_ids(FileStatus.SEALED)
        # What has confirmed facts clients were told of: if it has no row, that is lost (`recovery`).
        unnamed = found.settled - known - found.confirmed
        swept = await self._try_each(self._put_aside, unnamed)
        swept += await self._try_each(self._remove_parts, found.settled & sealed & found.in_parts)
        swept += await self._try_each(self._confirm, (found.settled & sealed & found.pending) - found.confirmed)
        if swept:
            _log.info("put aside what dead processes left of files", count=swept)
        return swept

    def _look(self, before_ms: int) -> "_Found":
        blobs = self._intake.blobs
        settled = set(blobs.list_settled(FILES_PREFIX, before_ms))
        return _Found(settled, *(blobs.find_folders(FILES_PREFIX, name) for name in (PARTS, PENDING_FACTS, FACTS)))

    async def _try_each(self, tidy: Callable[[str], Awaitable[bool]], file_ids: Iterable[str]) -> int:
        """How many were put right; those with which somebody is at work stay."""
        done = 0
        for file_id in sorted(file_ids):
            async with self._intake.lock_if_free(file_id) as is_free:
                done += is_free and not self._intake.is_receiving(file_id) and await tidy(file_id)
        return done

    async def _put_aside(self, file_id: str) -> bool:
        try:
            await self._metadata.get_file(file_id)
        except NotFound:
            await asyncio.to_thread(self._intake.blobs.put_aside, file_prefix(file_id), QUARANTINE_PREFIX)
            return True
        return False

    async def _remove_parts(self, file_id: str) -> bool:
        await asyncio.to_thread(self._intake.blobs.delete_folder, parts_prefix(file_id))
        return True

    async def _confirm(self, file_id: str) -> bool:
        await asyncio.to_thread(confirm_facts, self._intake.blobs, file_id)
        return True


class _Found(NamedTuple):
    """Ids of files by what lies in their folders."""

    settled: set[str]
    in_parts: set[str]
    pending: set[str]
    confirmed: set[str]


async def sweep_files(blobs: Blobs, metadata: Metadata) -> int:
    """Put aside blobs of files that have no row, remove parts of files that are complete; says how many these were.

    What a file is lies beside its content afterwards, as it does of every file that was sealed since there are facts.

    Only while nobody else works on the data directory: a file's blobs are there before its row.
    """
    known = await metadata.list_file_ids()
    sealed = await metadata.list_file_ids(FileStatus.SEALED)
    swept = await asyncio.to_thread(_sweep, blobs, known, sealed)
    if swept:
        _log.info("put aside what an earlier process left of files", count=swept)
    await _add_missing_facts(blobs, metadata, sealed)
    return swept


async def _add_missing_facts(blobs: Blobs, metadata: Metadata, sealed: set[str]) -> None:
    missing = await asyncio.to_thread(_find_without_facts, blobs, sealed)
    try:
        for file_id in missing:
            await asyncio.to_thread(_add_facts, blobs, await metadata.get_file(file_id))
    except StoreUnavailable as error:
        _log.warning("what files are cannot be written beside them now", reason=error.message)


def _sweep(blobs: Blobs, known: set[str], sealed: set[str]) -> int:
    swept = 0
    in_parts = blobs.find_folders(FILES_PREFIX, PARTS)
    for file_id in blobs.list_folders(FILES_PREFIX):
        if file_id not in known:
            try:
                blobs.put_aside(file_prefix(file_id), QUARANTINE_PREFIX)
            except StoreUnavailable as error:
                _log.warning("leftovers of a file stay for now", file=file_id, reason=error.message)
            else:
                swept += 1
        elif file_id in sealed and file_id in in_parts:
            blobs.delete_folder(parts_prefix(file_id))
            swept += 1
    return swept


def _find_without_facts(blobs: Blobs, sealed: set[str]) -> list[str]:
    """Files of before there were facts, and those whose facts a crash kept from being confirmed, which that now are."""
    unconfirmed = sealed - blobs.find_folders(FILES_PREFIX, FACTS)
    if not unconfirmed:
        return []
    pending = unconfirmed & blobs.find_folders(FILES_PREFIX, PENDING_FACTS)
    for file_id in sorted(pending):
        confirm_facts(blobs, file_id)
    return sorted((unconfirmed - pending) & blobs.find_folders(FILES_PREFIX, CONTENT))


def _add_facts(blobs: Blobs, file: File) -> None:
    write_facts(blobs, file)
    confirm_facts(blobs, file.id)
