"""The only place where the rooms meet: open them, run their loops, close them in order."""

import asyncio
import functools
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from backfill.accounts import Keys, Quota, QuotaSources, TokenGuess, UsageBook, WebhookSecrets
from backfill.catalogue import Catalogue
from backfill.config import Config
from backfill.deliver import BatchReceiver, Deliverer, OwnAddresses, ServerReceiver, WebhookSender
from backfill.dispatch import Dispatcher, Forecaster
from backfill.engines import Fleet
from backfill.errors import NotFound, StoreUnavailable
from backfill.intake import (
    Intake,
    Retention,
    UploadedMedia,
    check_database,
    check_place,
    check_rows,
    sweep_files,
)
from backfill.journal import Progress
from backfill.live import LiveMedia, LiveTraffic
from backfill.media import LocalFiles, MediaLibrary
from backfill.store import (
    ApiKeys,
    Blobs,
    DataSize,
    FolderLock,
    Metadata,
    Reservations,
    UsageRecords,
    WebhookKind,
    choose_driver,
    close_to_others,
    open_blobs,
    read_place,
)
from backfill.turns import Announcements, Turns

__all__ = ["Rooms", "open_rooms", "working"]

# New containers between two looks of the garbage collector: some 200 requests instead of 7. Nearly all that a request
# leaves is freed by its count alone, so most looks find nothing, and they cost 5 % of a request's time.
_CONTAINERS_BETWEEN_COLLECTIONS = 20_000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rooms:
    """Everything that works on one data directory."""

    config: Config
    catalogue: Catalogue
    blobs: Blobs
    metadata: Metadata
    keys: Keys
    quota: Quota
    intake: Intake
    media: MediaLibrary
    turns: Turns
    fleet: Fleet
    progress: Progress
    usage: UsageBook
    dispatcher: Dispatcher
    forecaster: Forecaster
    live: LiveTraffic
    deliverer: Deliverer
    webhooks: WebhookSender
    own_webhooks: WebhookSender
    retention: Retention


@asynccontextmanager
async def open_rooms(config: Config, *, media_folder: Path | None = None) -> AsyncIterator[Rooms]:
    """Take hold of the data directory and build every room on it; nothing runs yet.

    `media_folder`: requests may name pictures and clips by paths, which count from there; never set by a server.

    Raises:
        InvalidConfig: the catalogue's file cannot be used.
        StoreBusy: another process works in the data directory.
        RowsLost: the database is not the one that belongs to the files; nothing was changed.
        StoreUnavailable: the data directory or its database cannot be used.

    """
    async with AsyncExitStack() as stack:
        catalogue = await asyncio.to_thread(Catalogue.load, config.catalogue.file, config.catalogue.models)
        stack.callback(FolderLock(config.data_dir).release)
        await _close_to_others(config.data_dir)
        blobs = await asyncio.to_thread(open_blobs, config.store, config.data_dir)
        stack.callback(blobs.close)
        metadata = await _open_metadata(config, stack, blobs)
        stored_keys = ApiKeys.open(metadata.database, config.data_dir)
        stack.callback(stored_keys.close)
        await check_rows(config.data_dir, blobs, metadata)
        await check_place(config.data_dir, metadata)
        await _sweep_blobs(blobs)
        # No file is being made now: what no row names is what a crash left.
        await sweep_files(blobs, metadata)
        intake = await _open_intake(config, blobs, metadata)
        media = await _open_media(config, UploadedMedia(blobs, metadata, config.media), stack, media_folder)
        progress = Progress(blobs)
        stack.callback(progress.close)
        keys = Keys(stored_keys, [key.get_secret_value() for key in config.server.api_keys])
        sources = QuotaSources(progress.measure, functools.partial(_find_token_limit, keys), catalogue.resolve)
        quota = Quota(metadata, config.limits.enqueued_tokens, sources)
        await quota.begin()
        turns = _make_turns(config, catalogue, metadata, quota)
        # The lock says that nobody else is here: whoever held a turn from here is dead.
        await turns.reclaim()
        fleet = await stack.enter_async_context(Fleet.from_config(config, catalogue.resolve))
        dispatcher = Dispatcher(turns, blobs, fleet, config.dispatch, intake.inputs.check_content, media)
        yield Rooms(
            config=config,
            catalogue=catalogue,
            blobs=blobs,
            metadata=metadata,
            keys=keys,
            quota=quota,
            intake=intake,
            media=media,
            turns=turns,
            fleet=fleet,
            progress=progress,
            usage=UsageBook(UsageRecords(metadata.database), progress.measure),
            dispatcher=dispatcher,
            forecaster=Forecaster(metadata.database, dispatcher, fleet),
            live=LiveTraffic(fleet, config.live, LiveMedia(media)),
            deliverer=Deliverer(turns, blobs, intake.inputs.check_index),
            webhooks=_make_sender(config, turns, metadata),
            own_webhooks=_make_own_sender(config, turns, metadata),
            retention=_make_retention(config, intake, metadata, media),
        )


async def _open_metadata(config: Config, stack: AsyncExitStack, blobs: Blobs) -> Metadata:
    driver = choose_driver(config.store, config.data_dir)
    await asyncio.to_thread(check_database, config.data_dir, driver, blobs)
    metadata = await Metadata.open(driver)
    stack.push_async_callback(metadata.close)
    return metadata


async def _sweep_blobs(blobs: Blobs) -> None:
    swept = await asyncio.to_thread(blobs.sweep)
    if swept:
        _log.info("removed half-written blobs of an earlier process", count=swept)


async def _open_intake(config: Config, blobs: Blobs, metadata: Metadata) -> Intake:
    far = None if blobs.is_near else functools.partial(blobs.measure, "")
    data_size = DataSize(config.data_dir, config.retention.data_size_bytes, far)
    if data_size.limit_bytes:
        await asyncio.to_thread(data_size.measure)
    return Intake(blobs, metadata, config.limits, data_size, config.media)


async def _open_media(
    config: Config, uploaded: UploadedMedia, stack: AsyncExitStack, media_folder: Path | None
) -> MediaLibrary:
    local = None if media_folder is None else LocalFiles(media_folder, config.media)
    media = MediaLibrary(config.data_dir / "media", config.media, uploaded.find, local)
    stack.push_async_callback(media.close)
    await LiveMedia(media).sweep()
    return media


def _make_retention(config: Config, intake: Intake, metadata: Metadata, media: MediaLibrary) -> Retention:
    return Retention(intake, metadata, quarantine_h=config.quarantine_h, ages=config.retention, media=media)


def _make_sender(config: Config, turns: Turns, metadata: Metadata) -> WebhookSender:
    announcements = Announcements(metadata, WebhookKind.SERVER, metadata.database.now_ms)
    receiver = ServerReceiver(config.webhooks)
    return WebhookSender(announcements, receiver, config.webhooks, turns.setbacks, turns.subscribe())


def _make_own_sender(config: Config, turns: Turns, metadata: Metadata) -> WebhookSender:
    announcements = Announcements(metadata, WebhookKind.BATCH, metadata.database.now_ms)
    receiver = BatchReceiver(config.webhooks, OwnAddresses(config.webhooks), WebhookSecrets(metadata).find)
    # Few batches name an address: it is enough to look once a second.
    return WebhookSender(announcements, receiver, config.webhooks, turns.setbacks)


def _make_turns(config: Config, catalogue: Catalogue, metadata: Metadata, quota: Quota) -> Turns:
    # A database in the data directory knows no others.
    place = f"{read_place(config.data_dir)}:" if metadata.database.many_writers else ""
    reserve = TokenGuess(Reservations(metadata.database)).reserve
    appraisals = [OwnAddresses(config.webhooks).check, catalogue.note_prices, reserve]
    announces_ends = bool(config.webhooks.url)
    return Turns(
        metadata,
        config.limits,
        metadata.database.now_ms,
        announces_ends=announces_ends,
        appraisals=appraisals,
        add_batch=quota.add_batch,
        endpoints=config.listed_endpoints,
        place=place,
    )


async def _find_token_limit(keys: Keys, key_id: str) -> int | None:
    with suppress(NotFound):
        return (await keys.get(key_id)).limits.enqueued_tokens
    return None


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


@asynccontextmanager
async def working(rooms: Rooms) -> AsyncIterator["asyncio.Task[None]"]:
    """Dispatch, deliver and tidy up in the background; at the end let them wind down.

    Yields a task that ends only if one of the loops fails.
    """
    task = asyncio.create_task(_run_loops(rooms), name="dispatch and deliver")
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_CONTAINERS_BETWEEN_COLLECTIONS, *thresholds[1:])
    try:
        yield task
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        rooms.dispatcher.stop()
        rooms.deliverer.stop()
        rooms.webhooks.stop()
        rooms.own_webhooks.stop()
        rooms.retention.stop()
        rooms.keys.uses.stop()
        await task


async def _run_loops(rooms: Rooms) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(rooms.dispatcher.run(), name="dispatch")
        group.create_task(rooms.deliverer.run(), name="deliver")
        group.create_task(rooms.webhooks.run(), name="send webhooks")
        group.create_task(rooms.own_webhooks.run(), name="send webhooks of batches")
        group.create_task(rooms.retention.run(), name="remove expired files")
        group.create_task(rooms.keys.uses.run(), name="write when keys were used")
