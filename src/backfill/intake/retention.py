"""Files go when their time is over."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import structlog

from backfill.config import RetentionConfig
from backfill.errors import BackfillError, NotFound
from backfill.intake.collection import (
    Leftover,
    find_aged_files,
    find_aged_journals,
    find_leftovers,
    remove_journal,
    remove_leftover,
)
from backfill.intake.sweeping import Sweeper
from backfill.intake.upload import Intake
from backfill.media import MediaLibrary
from backfill.status import MetricFamily
from backfill.store import QUARANTINE_PREFIX, REMOVED_PREFIX, Aging, Blobs, DataSize, Metadata
from backfill.turns import RETENTION, Bell

__all__ = ["Retention", "describe_data_size"]

_Name = TypeVar("_Name")
_TICK_S = 30.0
# A file is not to be seen from the instant at which it expires; its bytes stay for the requests that had seen it.
_GRACE_S = 60.0
_log = structlog.get_logger(__name__)


class Retention:
    """Removes expired files until stopped; never one that an unfinished batch reads or whose bytes are coming."""

    def __init__(  # noqa: PLR0913 - ages of several things
        self,
        intake: Intake,
        metadata: Metadata,
        *,
        tick_s: float = _TICK_S,
        grace_s: float = _GRACE_S,
        quarantine_h: float = 168.0,
        ages: RetentionConfig | None = None,
        media: MediaLibrary | None = None,
        tidies_for_all: bool = True,
        sweeper: Sweeper | None = None,
    ) -> None:
        """`media`: what was fetched for batches goes once they have ended.

        Without `tidies_for_all` only what this process's own requests have left is removed. `sweeper`: for what dead
        processes have left, where a start does not see to it.
        """
        self._intake = intake
        self._metadata = metadata
        self._tick_s = tick_s
        self._grace_ms = round(grace_s * 1000)
        self._quarantine_ms = round(quarantine_h * 3_600_000)
        self._ages = ages or RetentionConfig()
        self._media = media
        self._aging = Aging(metadata.database)
        self._quarantine_h = quarantine_h
        self._tidies_for_all = tidies_for_all
        self._sweeper = sweeper
        self._bell = Bell()
        self._is_stopped = False
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Work until `stop` is called."""
        while not self._is_stopped:
            async with self._turn:
                await self._look()
            if self._intake.data_size.limit_bytes:
                await asyncio.to_thread(self._intake.data_size.measure)
            await self._bell.wait(self._tick_s)

    def stop(self) -> None:
        """Remove no other file."""
        self._is_stopped = True
        self._bell.ring()

    async def collect(self, *, is_trial: bool) -> list[Leftover]:
        """Remove what is over, now and not at the next look, or only find it.

        Raises what the last one failed with that could not be removed, once all are tried; the others are gone.
        """
        async with self._turn:
            grace_ms = self._grace_ms
            found = await find_leftovers(self._intake, self._metadata, self._ages, self._quarantine_h, grace_ms)
            if is_trial:
                return found
            removed: list[Leftover] = []

            async def remove(leftover: Leftover) -> bool:
                # It may be gone since, at somebody's wish.
                with suppress(NotFound):
                    if await remove_leftover(self._intake, leftover):
                        removed.append(leftover)
                        return True
                return False

            await self._try_each(found, remove)
            await asyncio.to_thread(self._intake.blobs.delete_folder, REMOVED_PREFIX)
            return removed

    async def remove_expired(self) -> int:
        """Remove what is due, and say how many files that were; raises once all are tried."""
        due_at_ms = self._metadata.database.now_ms() - self._grace_ms
        expired = await self._metadata.find_expired_files(due_at_ms)
        return await self._try_each(
            [file.id for file in expired], lambda file_id: self._remove_expired(file_id, due_at_ms)
        )

    async def remove_aged(self) -> int:
        """Remove files and journals that are older than the settings allow, and say how many; raises as the others."""
        files = await find_aged_files(self._aging, self._ages)
        journals = await find_aged_journals(self._intake.blobs, self._aging, self._ages)
        removed = 0
        try:
            removed += await self._try_each(files, self._remove_aged)
        finally:
            removed += await self._try_each(journals, self._remove_journal)
        # What an earlier process had begun to remove.
        await asyncio.to_thread(self._intake.blobs.delete_folder, REMOVED_PREFIX)
        if removed:
            _log.info("removed what was older than it may become", count=removed)
        return removed

    async def remove_left(self) -> None:
        """Remove what failed requests left of files, or could not remove; raises once all are tried."""
        await self._try_each(self._intake.left, self._remove_left)

    async def remove_fetched(self) -> None:
        """Remove what was fetched for batches that have ended; raises once all are tried."""
        media = self._media
        # What is there is looked up first: a batch that comes in between is not taken for one that has ended.
        there = [] if media is None else await media.list_batches()
        if media is None or not there:
            return
        unended = await self._metadata.list_batch_ids(only_unended=True)

        async def remove(batch_id: str) -> bool:
            await media.remove(batch_id)
            return True

        # What live requests name is theirs, and has names of its own.
        over = [batch_id for batch_id in there if batch_id not in unended and not batch_id.startswith("live-")]
        await self._try_each(over, remove)

    async def _look(self) -> None:
        # Each by itself: what cannot go now must not keep other things from going.
        steps = (
            self.remove_left,
            self._on_duty(self.remove_expired),
            self._on_duty(self.remove_aged),
            self._on_duty(self.remove_fetched),
            self._on_duty(self._empty_quarantine),
            self._on_duty(self._sweep),
            self._on_duty(self._intake.duties.sweep),
        )
        for step in steps:
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find better
                reason = error.message if isinstance(error, BackfillError) else repr(error)
                _log.error("expired files stay for now", reason=reason)

    def _on_duty(self, step: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        """For what one process does for all; what its own requests left each one removes itself."""

        async def take_step() -> None:
            if self._tidies_for_all and await self._intake.duties.has(RETENTION):
                await step()

        return take_step

    async def _try_each(self, names: Sequence[_Name], remove: Callable[[_Name], Awaitable[bool]]) -> int:
        """How many were removed; raises what the last one failed with, once all are tried."""
        removed = 0
        failure: BackfillError | None = None
        for name in names:
            if self._is_stopped:
                break
            try:
                removed += await remove(name)
            except BackfillError as error:
                failure = error
        if failure is not None:
            raise failure
        return removed

    async def _remove_aged(self, file_id: str) -> bool:
        async with self._intake.lock_if_free(file_id) as is_free:
            return is_free and not self._intake.is_receiving(file_id) and await self._intake.remove(file_id)

    async def _remove_journal(self, batch_id: str) -> bool:
        return await remove_journal(self._intake, batch_id)

    async def _remove_left(self, file_id: str) -> bool:
        async with self._intake.lock_if_free(file_id) as is_free:
            if is_free:
                await self._intake.remove_left(file_id)
        return is_free

    async def _sweep(self) -> None:
        if self._sweeper is not None:
            await self._sweeper.sweep_now_and_then()

    async def _empty_quarantine(self) -> None:
        due_at_ms = self._metadata.database.now_ms() - self._quarantine_ms
        await asyncio.to_thread(_empty_quarantine, self._intake.blobs, due_at_ms)

    async def _remove_expired(self, file_id: str, due_at_ms: int) -> bool:
        async with self._intake.lock_if_free(file_id) as is_free:
            return is_free and await self._remove(file_id, due_at_ms)

    async def _remove(self, file_id: str, due_at_ms: int) -> bool:
        # Looked up again: an upload that was about to expire may have been completed since, and its file is kept.
        still_due = {file.id for file in await self._metadata.find_expired_files(due_at_ms)}
        if file_id not in still_due or self._intake.is_receiving(file_id):
            return False
        if not await self._intake.remove(file_id):
            return False
        _log.info("expired file removed", file=file_id)
        return True


async def describe_data_size(data_size: DataSize) -> Sequence[MetricFamily]:
    """For `/metrics`."""
    limit_bytes = data_size.limit_bytes
    # With a limit somebody looks every half minute anyway.
    is_known = limit_bytes or data_size.is_fresh
    size_bytes = data_size.size_bytes if is_known else await asyncio.to_thread(data_size.measure)
    size = ("backfill_data_size_bytes", "Bytes that the data directory holds.")
    limit = ("backfill_data_size_limit_bytes", "Bytes that it may hold; 0: any number.")
    return tuple(
        MetricFamily(*told, "gauge", (), {(): float(count)})
        for told, count in ((size, size_bytes), (limit, limit_bytes))
    )


def _empty_quarantine(blobs: Blobs, due_at_ms: int) -> None:
    """Remove what lies there for longer; its name says since when."""
    for name in blobs.list_folders(QUARANTINE_PREFIX):
        since_ms = name.partition("-")[0]
        if since_ms.isdigit() and int(since_ms) <= due_at_ms:
            blobs.delete_folder(f"{QUARANTINE_PREFIX}/{name}")
            _log.info("removed what no row names", folder=name)
