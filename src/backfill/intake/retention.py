"""Files go when their time is over, and what a crash left of files that never came to be goes at the next start."""

import asyncio

import structlog

from backfill.batch import FileStatus
from backfill.errors import BackfillError
from backfill.intake.upload import Intake
from backfill.store import FILES_PREFIX, LocalBlobs, Metadata, file_prefix, parts_prefix
from backfill.turns import Bell, now_ms

__all__ = ["Retention", "sweep_files"]

_TICK_S = 30.0
# A file is not to be seen from the instant at which it expires; its bytes stay for the requests that had seen it.
_GRACE_S = 60.0
_log = structlog.get_logger(__name__)


class Retention:
    """Removes expired files until stopped; never one that an unfinished batch reads or whose bytes are coming."""

    def __init__(
        self, intake: Intake, metadata: Metadata, *, tick_s: float = _TICK_S, grace_s: float = _GRACE_S
    ) -> None:
        self._intake = intake
        self._metadata = metadata
        self._tick_s = tick_s
        self._grace_ms = round(grace_s * 1000)
        self._bell = Bell()
        self._is_stopped = False

    async def run(self) -> None:
        """Work until `stop` is called."""
        while not self._is_stopped:
            try:
                await self.remove_expired()
            except BackfillError as error:
                _log.error("expired files stay for now", reason=error.message)
            await self._bell.wait(self._tick_s)

    def stop(self) -> None:
        """Remove no other file."""
        self._is_stopped = True
        self._bell.ring()

    async def remove_expired(self) -> int:
        """Remove what is due, and say how many files that were."""
        removed = 0
        due_at_ms = now_ms() - self._grace_ms
        for file in await self._metadata.find_expired_files(due_at_ms):
            if self._is_stopped:
                break
            async with self._intake.lock(file.id):
                removed += await self._remove(file.id, due_at_ms)
        return removed

    async def _remove(self, file_id: str, due_at_ms: int) -> bool:
        # Looked up again: an upload that was about to expire may have been completed since, and its file is kept.
        still_due = {file.id for file in await self._metadata.find_expired_files(due_at_ms)}
        if file_id not in still_due or self._intake.is_receiving(file_id):
            return False
        await self._intake.remove(file_id)
        _log.info("expired file removed", file=file_id)
        return True


async def sweep_files(blobs: LocalBlobs, metadata: Metadata) -> int:
    """Remove blobs of files that have no row, and parts of files that are complete; says how many folders that were.

    Only while nobody else works on the data directory: a file's blobs are there before its row.
    """
    known = await metadata.list_file_ids()
    sealed = await metadata.list_file_ids(FileStatus.SEALED)
    swept = await asyncio.to_thread(_sweep, blobs, known, sealed)
    if swept:
        _log.info("removed what an earlier process left of files", count=swept)
    return swept


def _sweep(blobs: LocalBlobs, known: set[str], sealed: set[str]) -> int:
    swept = 0
    for file_id in blobs.list_folders(FILES_PREFIX):
        if file_id not in known:
            blobs.delete_folder(file_prefix(file_id))
            swept += 1
        elif file_id in sealed and blobs.list(parts_prefix(file_id)):
            blobs.delete_folder(parts_prefix(file_id))
            swept += 1
    return swept
