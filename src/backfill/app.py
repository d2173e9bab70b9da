"""The only place where the rooms meet: open them, run their loops, close them in order."""

import asyncio
import functools
import gc
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from backfill.accounts import Keys, Quota, QuotaSources, SharedUse, TokenGuess, UsageBook
from backfill.catalogue import Catalogue
from backfill.config import Config, Role
from backfill.deliver import Deliverer, OwnAddresses, WebhookSender, make_batch_sender, make_server_sender
from backfill.dispatch import Crew, Deadlines, Dispatcher, Forecaster, Heartbeat, OwnWork
from backfill.engines import Fleet
from backfill.errors import InvalidConfig, NotFound
from backfill.intake import Intake, Retention, SchemaWatch, Sweeper, UploadedMedia, open_store
from backfill.journal import Progress
from backfill.live import RELAY_SECRET, AbsentTraffic, LiveLimits, LiveMedia, LiveTraffic, RelayedTraffic, Traffic
from backfill.media import LocalFiles, MediaLibrary, claim_folder
from backfill.plan import count_slices
from backfill.store import (
    BATCHES,
    KEYS,
    Blobs,
    Callouts,
    ChangeMark,
    DataSize,
    FolderLock,
    Leases,
    Metadata,
    Reservations,
    UsageRecords,
    read_place,
)
from backfill.turns import Company, Duties, Neighbours, Turns
from backfill.workforce import Workforce

__all__ = ["Rooms", "open_rooms", "working"]

# New containers between two looks of the garbage collector: some 200 requests instead of 7. Nearly all that a request
# leaves is freed by its count alone, so most looks find nothing, and they cost 5 % of a request's time.
_CONTAINERS_BETWEEN_COLLECTIONS = 20_000
# Renewed whenever a batch was changed.
_MARK = "batches.mark"
_FEEDING = frozenset({Role.ALL, Role.WORK})
"""Roles of processes that have engines to feed."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rooms:
    """Everything of one process that works on a data directory."""

    config: Config
    role: Role
    catalogue: Catalogue
    blobs: Blobs
    metadata: Metadata
    schema: SchemaWatch
    """Whether this process may go on working on the rows."""
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
    live: Traffic
    shared_use: SharedUse | None
    """What keys use of their limits, told to others that let live requests in."""
    deliverer: Deliverer
    webhooks: WebhookSender
    own_webhooks: WebhookSender
    retention: Retention
    callouts: Callouts
    """What processes elsewhere call out."""
    neighbours: Neighbours | None
    """The other processes; None: there can be none."""
    crew: Crew | None
    """Those with engines, for a process that has none."""
    heartbeat: Heartbeat | None
    """What a process with engines tells of itself, if others may listen."""
    deadlines: Deadlines | None
    """Which are in danger of all that waits, for a process with engines beside others."""


@asynccontextmanager
async def open_rooms(
    config: Config, *, media_folder: Path | None = None, role: Role = Role.ALL, address: str = ""
) -> AsyncIterator[Rooms]:
    """Take hold of the data directory and build every room on it; nothing runs yet.

    `media_folder`: requests may name pictures and clips by paths, which count from there; never set by a server.
    `role`: with any but "all" others may work there too. `address`: where others reach this process; empty: nowhere.

    Raises:
        InvalidConfig: the catalogue's file cannot be used.
        StoreUnavailable: the data directory or its database cannot be used: `StoreBusy` if another process works there,
            `RowsLost` and `SchemaMismatch` if the database is not the right one; nothing was changed.

    """
    async with AsyncExitStack() as stack:
        yield await _open_all(config, stack, media_folder, role, address)


async def _open_all(
    config: Config, stack: AsyncExitStack, media_folder: Path | None, role: Role, address: str
) -> Rooms:
    catalogue = await asyncio.to_thread(Catalogue.load, config.catalogue.file, config.catalogue.models)
    shares = role is not Role.ALL
    # Where nothing but caches lies in the data directory, others may work from directories of their own.
    has_others = shares or config.store.is_remote
    lock, blobs, metadata, stored_keys = await open_store(config, stack, shares=shares)
    callouts, company = _find_company(config, metadata, stack, has_others=has_others)
    intake = await _open_intake(config, blobs, metadata, company.duties)
    media = await _open_media(config, blobs, metadata, stack, media_folder, shares=shares)
    progress = Progress(blobs)
    stack.callback(progress.close)
    keys = Keys(stored_keys, [key.get_secret_value() for key in config.server.api_keys])
    quota = await _begin_quota(config, catalogue, metadata, keys, progress, is_shared=has_others)
    turns = _make_turns(config, catalogue, metadata, quota, company, shares=shares)
    schema = await _settle_in(lock, turns, metadata, company, stack, shares=shares)
    fleet = await stack.enter_async_context(_make_fleet(config, catalogue, role))
    workforce = Workforce(config, catalogue, metadata, company)
    policy, others = config.dispatch, workforce.make_colleagues()
    dispatcher = Dispatcher(turns, blobs, fleet, policy, intake.inputs.check_content, media, colleagues=others)
    crew = await workforce.open_crew() if role is Role.API else None
    deadlines = workforce.make_deadlines(dispatcher) if role in _FEEDING else None
    limits = LiveLimits(config.live, asyncio.get_running_loop().time)
    live: Traffic = LiveTraffic(fleet, config.live, LiveMedia(media), limits)
    if crew is not None:
        live = await _open_live(config, catalogue, metadata, crew, limits, stack)
    return Rooms(
        config=config,
        role=role,
        catalogue=catalogue,
        blobs=blobs,
        metadata=metadata,
        schema=schema,
        keys=keys,
        quota=quota,
        intake=intake,
        media=media,
        turns=turns,
        fleet=fleet,
        progress=progress,
        usage=UsageBook(UsageRecords(metadata.database), progress.measure),
        dispatcher=dispatcher,
        forecaster=workforce.make_forecaster(crew or OwnWork(metadata.database, dispatcher, fleet)),
        live=live,
        shared_use=await workforce.share_use(limits) if crew else None,
        deliverer=Deliverer(turns, blobs, intake.inputs.check_index),
        webhooks=make_server_sender(config.webhooks, turns, metadata),
        own_webhooks=make_batch_sender(config.webhooks, turns, metadata),
        retention=_make_retention(config, intake, metadata, media, role),
        callouts=callouts,
        neighbours=company.neighbours,
        crew=crew,
        heartbeat=workforce.make_heartbeat(dispatcher, fleet, address, deadlines) if role in _FEEDING else None,
        deadlines=deadlines,
    )


async def _settle_in(
    lock: FolderLock, turns: Turns, metadata: Metadata, company: Company, stack: AsyncExitStack, *, shares: bool
) -> SchemaWatch:
    if lock.is_alone:
        # The lock says that nobody else is here: whoever held a turn from here is dead.
        await turns.reclaim()
    schema = SchemaWatch(metadata.database, company.duties, company.holder)
    stack.push_async_callback(schema.end)
    await schema.begin()
    if shares:
        lock.open_to_others()
    return schema


async def _begin_quota(
    config: Config, catalogue: Catalogue, metadata: Metadata, keys: Keys, progress: Progress, *, is_shared: bool
) -> Quota:
    sources = QuotaSources(progress.measure, functools.partial(_find_token_limit, keys), catalogue.resolve)
    quota = Quota(metadata, config.limits.enqueued_tokens, sources, is_shared=is_shared)
    await quota.begin()
    return quota


def _make_fleet(config: Config, catalogue: Catalogue, role: Role) -> Fleet:
    # One that answers HTTP alone has no engines; what they are it reads of the others. The scaler starts none itself.
    engines = config.find_own_engines(role)
    if not engines and role is not Role.API:
        message = 'All engines have place = "ray": they are started by `backfill serve --role scale`, and by no other.'
        raise InvalidConfig(message, param="engines")
    return Fleet.from_config(config.model_copy(update={"engines": engines}), catalogue.resolve)


def _find_company(
    config: Config, metadata: Metadata, stack: AsyncExitStack, *, has_others: bool
) -> tuple[Callouts, Company]:
    database = metadata.database
    # A database in the data directory knows no others.
    place = f"{read_place(config.data_dir)}:" if database.many_writers else ""
    holder = place + str(uuid.uuid4())
    callouts = Callouts(database, holder)
    stack.push_async_callback(callouts.close)
    duties = Duties()
    if has_others or database.many_writers:
        duties = Duties(Leases(database, holder, database.now_ms, config.server.lease_ms))
    neighbours = _open_neighbours(config, callouts, stack) if has_others else None
    return callouts, Company(duties, neighbours, holder, place)


async def _open_live(
    config: Config, catalogue: Catalogue, metadata: Metadata, crew: Crew, limits: LiveLimits, stack: AsyncExitStack
) -> Traffic:
    """Of a process without engines."""
    if not config.live.relay:
        return AbsentTraffic(config.live)
    secret, timeout_s = await metadata.get_secret(RELAY_SECRET), config.dispatch.request_timeout_s
    relayed = RelayedTraffic(crew, config.live, secret, timeout_s, catalogue.resolve, limits)
    stack.push_async_callback(relayed.close)
    return relayed


def _open_neighbours(config: Config, callouts: Callouts, stack: AsyncExitStack) -> Neighbours:
    mark = ChangeMark(config.data_dir / _MARK)
    stack.callback(mark.close)
    return Neighbours(mark, callouts)


async def _open_intake(config: Config, blobs: Blobs, metadata: Metadata, duties: Duties) -> Intake:
    far = None if blobs.is_near else functools.partial(blobs.measure, "")
    data_size = DataSize(config.data_dir, config.retention.data_size_bytes, far)
    if data_size.limit_bytes:
        await asyncio.to_thread(data_size.measure)
    return Intake(blobs, metadata, config.limits, data_size, config.media, duties)


async def _open_media(
    config: Config,
    blobs: Blobs,
    metadata: Metadata,
    stack: AsyncExitStack,
    media_folder: Path | None,
    *,
    shares: bool,
) -> MediaLibrary:
    media_store = await asyncio.to_thread(claim_folder, config.data_dir, stack) if shares else None
    local = None if media_folder is None else LocalFiles(media_folder, config.media)
    find_uploaded = UploadedMedia(blobs, metadata, config.media).find
    media = MediaLibrary(media_store or config.data_dir / "media", config.media, find_uploaded, local)
    stack.push_async_callback(media.close)
    await LiveMedia(media).sweep()
    return media


def _make_retention(config: Config, intake: Intake, metadata: Metadata, media: MediaLibrary, role: Role) -> Retention:
    return Retention(
        intake,
        metadata,
        quarantine_h=config.quarantine_h,
        ages=config.retention,
        media=media,
        tidies_for_all=role is not Role.API,
        sweeper=Sweeper(intake, metadata) if config.store.is_remote else None,
    )


def _make_turns(
    config: Config, catalogue: Catalogue, metadata: Metadata, quota: Quota, company: Company, *, shares: bool
) -> Turns:
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
        lease_ms=config.server.lease_ms,
        company=company,
        # One that is alone works on each batch as a whole.
        count_slices=functools.partial(count_slices, lines_per_turn=config.dispatch.lines_per_turn) if shares else None,
    )


async def _find_token_limit(keys: Keys, key_id: str) -> int | None:
    with suppress(NotFound):
        return (await keys.get(key_id)).limits.enqueued_tokens
    return None


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
        for stop in _list_stops(rooms):
            stop()
        await task


def _list_stops(rooms: Rooms) -> list[Callable[[], None]]:
    stops = [rooms.dispatcher.stop, rooms.deliverer.stop, rooms.webhooks.stop, rooms.own_webhooks.stop]
    stops += [rooms.retention.stop, rooms.keys.uses.stop, rooms.turns.duties.stop, rooms.callouts.stop]
    stops.append(rooms.schema.stop)
    others = (rooms.neighbours, rooms.crew, rooms.heartbeat, rooms.shared_use, rooms.deadlines)
    stops += [each.stop for each in others if each is not None]
    return stops


async def _run_loops(rooms: Rooms) -> None:
    async with asyncio.TaskGroup() as group:
        if rooms.role in _FEEDING:
            group.create_task(rooms.dispatcher.run(), name="dispatch")
        if rooms.role is not Role.API:
            group.create_task(rooms.deliverer.run(), name="deliver")
            group.create_task(rooms.webhooks.run(), name="send webhooks")
            group.create_task(rooms.own_webhooks.run(), name="send webhooks of batches")
        group.create_task(rooms.retention.run(), name="remove expired files")
        group.create_task(rooms.keys.uses.run(), name="write when keys were used")
        group.create_task(rooms.turns.duties.run(), name="renew duties")
        group.create_task(rooms.schema.run(), name="watch the schema")
        group.create_task(rooms.callouts.listen(functools.partial(_hear, rooms)), name="listen to processes elsewhere")
        if rooms.neighbours is not None:
            group.create_task(rooms.neighbours.listen(rooms.turns.ring_bells), name="listen to other processes")
        if rooms.crew is not None:
            group.create_task(rooms.crew.run(), name="look at the workers")
        if rooms.shared_use is not None:
            group.create_task(rooms.shared_use.run(), name="share what keys use")
        if rooms.deadlines is not None:
            group.create_task(rooms.deadlines.run(), name="judge deadlines")
        if rooms.heartbeat is not None:
            group.create_task(rooms.heartbeat.run(), name="tell of this worker")


def _hear(rooms: Rooms, topic: str) -> None:
    if topic == KEYS:
        rooms.keys.note_change()
    elif topic == BATCHES:
        rooms.turns.ring_bells()
