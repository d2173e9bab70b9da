"""What is over and can go, by the ages of the settings: found for whoever only wants to see it, and for removing it."""

import asyncio
import uuid
from contextlib import ExitStack
from typing import NamedTuple

from backfill.config import Config, RetentionConfig
from backfill.errors import InvalidInput
from backfill.intake.belonging import check_place
from backfill.intake.upload import Intake
from backfill.purposes import OPAQUE_PURPOSES
from backfill.store import (
    JOURNALS_PREFIX,
    QUARANTINE_PREFIX,
    REMOVED_PREFIX,
    Aging,
    Blobs,
    FolderLock,
    Leases,
    Metadata,
    choose_driver,
    file_prefix,
    journal_prefix,
    open_blobs,
)
from backfill.turns import Duties

__all__ = [
    "Leftover",
    "collect",
    "find_aged_files",
    "find_aged_journals",
    "find_leftovers",
    "remove_journal",
    "remove_leftover",
]

_DAY_MS = 86_400_000
# No holder has such a name.
_NOBODY = "-"


class Leftover(NamedTuple):
    """Something that can go."""

    kind: str
    """"input", "output", "expired", "journal" or "quarantine"."""
    name: str
    """Id of the file or of the batch, or the name of a folder."""
    size_bytes: int


class _Due(NamedTuple):
    kind: str
    name: str
    prefix: str


async def collect(config: Config, *, is_trial: bool) -> list[Leftover]:
    """Remove what is over, or only find it.

    Raises:
        InvalidInput: there is no such data directory.
        StoreBusy: a server works in it, which removes these things by itself; finding them is no matter.

    """
    driver = choose_driver(config.store, config.data_dir)
    loss = await asyncio.to_thread(driver.find_loss)
    # Of what lies elsewhere a data directory is only the place of this machine, which may be new.
    is_place_missing = not (config.store.is_remote or await asyncio.to_thread(config.data_dir.is_dir))
    if loss == "gone" or is_place_missing:
        message = f"There is no data directory {config.data_dir}."
        raise InvalidInput(message, param="data_dir")
    if loss is not None:
        message = f"The database {driver.name} is {loss}."
        raise InvalidInput(message, param="data_dir")
    with ExitStack() as stack:
        if not is_trial:
            stack.callback(FolderLock(config.data_dir).release)
        metadata = await Metadata.open(driver, holders=_NOBODY if driver.many_writers else "")
        try:
            blobs = await asyncio.to_thread(open_blobs, config.store, config.data_dir)
            stack.callback(blobs.close)
            await check_place(config.data_dir, metadata, blobs)
            intake = Intake(blobs, metadata, config.limits, duties=_take_duties(config, metadata))
            found = await find_leftovers(intake, metadata, config.retention, config.quarantine_h)
            leftovers = [leftover for leftover in found if is_trial or await remove_leftover(intake, leftover)]
            if not is_trial:
                await asyncio.to_thread(blobs.delete_folder, REMOVED_PREFIX)
            return leftovers
        finally:
            await metadata.close()


def _take_duties(config: Config, metadata: Metadata) -> Duties:
    """So that nothing goes with which a process elsewhere is at work."""
    database = metadata.database
    if not database.many_writers:
        return Duties()
    return Duties(Leases(database, str(uuid.uuid4()), database.now_ms, config.server.lease_ms))


async def find_leftovers(
    intake: Intake, metadata: Metadata, ages: RetentionConfig, quarantine_h: float, grace_ms: int = 0
) -> list[Leftover]:
    """All that can go now, with its size; files so long after their own expiry."""
    now = metadata.database.now_ms()
    aging = Aging(metadata.database)
    due = [_Due("expired", file.id, file_prefix(file.id)) for file in await metadata.find_expired_files(now - grace_ms)]
    aged = await aging.find_files(_before(now, ages.inputs_days), _before(now, ages.outputs_days))
    due += [
        _Due("input" if file.survey or file.purpose in OPAQUE_PURPOSES else "output", file.id, file_prefix(file.id))
        for file in aged
    ]
    due += [_Due("journal", name, journal_prefix(name)) for name in await find_aged_journals(intake.blobs, aging, ages)]
    names = await asyncio.to_thread(intake.blobs.list_folders, QUARANTINE_PREFIX)
    for name in names:
        since_ms = name.partition("-")[0]
        if since_ms.isdigit() and int(since_ms) <= now - round(quarantine_h * 3_600_000):
            due.append(_Due("quarantine", name, f"{QUARANTINE_PREFIX}/{name}"))
    return await asyncio.to_thread(_measure_all, intake.blobs, due)


async def find_aged_journals(blobs: Blobs, aging: Aging, ages: RetentionConfig) -> list[str]:
    """Ids of batches that ended so long ago that their journals can go."""
    before_ms = _before(aging.now_ms(), ages.journals_days)
    if before_ms is None:
        return []
    there = await asyncio.to_thread(blobs.list_folders, JOURNALS_PREFIX)
    return await aging.find_ended(there, before_ms)


async def find_aged_files(aging: Aging, ages: RetentionConfig) -> list[str]:
    """Ids of files that are older than they may become."""
    now = aging.now_ms()
    found = await aging.find_files(_before(now, ages.inputs_days), _before(now, ages.outputs_days))
    return [file.id for file in found]


async def remove_leftover(intake: Intake, leftover: Leftover) -> bool:
    """Remove it; False if it has to stay after all."""
    match leftover.kind:
        case "journal":
            return await remove_journal(intake, leftover.name)
        case "quarantine":
            await asyncio.to_thread(intake.blobs.delete_folder, f"{QUARANTINE_PREFIX}/{leftover.name}")
        case _:
            async with intake.lock_if_free(leftover.name) as is_free:
                return is_free and not intake.is_receiving(leftover.name) and await intake.remove(leftover.name)
    return True


async def remove_journal(intake: Intake, batch_id: str) -> bool:
    """In one step out of sight, since a part of a journal would tell of another batch than there was.

    False, and it stays, while somebody reads it.
    """
    with intake.journal_holds.removing(batch_id) as may_go:
        if may_go:
            await asyncio.to_thread(intake.blobs.remove_segments, journal_prefix(batch_id))
        return may_go


def _before(now: int, days: float) -> int | None:
    return round(now - days * _DAY_MS) if days else None


def _measure_all(blobs: Blobs, due: list[_Due]) -> list[Leftover]:
    return [Leftover(each.kind, each.name, blobs.measure(each.prefix)) for each in due]
