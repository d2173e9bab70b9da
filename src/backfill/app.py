"""The only place where the rooms meet: open them, run their loops, close them in order."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
import uvicorn

from backfill.config import Config
from backfill.deliver import Deliverer, WebhookSender
from backfill.dispatch import Dispatcher
from backfill.engines import Fleet
from backfill.errors import InvalidConfig
from backfill.intake import Intake, Retention, sweep_files
from backfill.journal import Progress
from backfill.store import FolderLock, LocalBlobs, Metadata
from backfill.turns import Turns
from backfill.web.api import Services, create_app

__all__ = ["Rooms", "open_rooms", "serve"]

# Open downloads and polls may finish; a client that reads for ever must not keep the server from ending.
_HTTP_DRAIN_S = 5
# New containers between two looks of the garbage collector: some 200 requests instead of 7. Nearly all that a request
# leaves is freed by its count alone, so most looks find nothing, and they cost 5 % of a request's time.
_CONTAINERS_BETWEEN_COLLECTIONS = 20_000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rooms:
    """Everything that works on one data directory."""

    config: Config
    blobs: LocalBlobs
    metadata: Metadata
    intake: Intake
    turns: Turns
    fleet: Fleet
    progress: Progress
    dispatcher: Dispatcher
    deliverer: Deliverer
    webhooks: WebhookSender
    retention: Retention


@asynccontextmanager
async def open_rooms(config: Config) -> AsyncIterator[Rooms]:
    """Take hold of the data directory and build every room on it; nothing runs yet.

    Raises:
        StoreBusy: another process works in the data directory.
        StoreUnavailable: the data directory or its database cannot be used.

    """
    async with AsyncExitStack() as stack:
        stack.callback(FolderLock(config.data_dir).release)
        blobs = LocalBlobs(config.data_dir / "blobs")
        swept = await asyncio.to_thread(blobs.sweep)
        if swept:
            _log.info("removed half-written blobs of an earlier process", count=swept)
        metadata = await Metadata.open(config.data_dir / "backfill.db")
        stack.push_async_callback(metadata.close)
        # No file is being made now: what no row names is what a crash left.
        await sweep_files(blobs, metadata)
        intake = Intake(blobs, metadata, config.limits)
        turns = Turns(metadata, config.limits, announces_ends=bool(config.webhooks.url))
        # The lock says that nobody else is here: whoever held a turn is dead.
        await turns.reclaim()
        progress = Progress(blobs)
        stack.callback(progress.close)
        fleet = await stack.enter_async_context(Fleet.from_config(config))
        yield Rooms(
            config=config,
            blobs=blobs,
            metadata=metadata,
            intake=intake,
            turns=turns,
            fleet=fleet,
            progress=progress,
            dispatcher=Dispatcher(turns, blobs, fleet, config.dispatch),
            deliverer=Deliverer(turns, blobs),
            webhooks=WebhookSender(turns, config.webhooks),
            retention=Retention(intake, metadata),
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
        rooms.retention.stop()
        await task


async def _run_loops(rooms: Rooms) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(rooms.dispatcher.run(), name="dispatch")
        group.create_task(rooms.deliverer.run(), name="deliver")
        group.create_task(rooms.webhooks.run(), name="send webhooks")
        group.create_task(rooms.retention.run(), name="remove expired files")


async def serve(config: Config, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then stop feeding, keep what is done and end the engines.

    `announce` is called once with the server's own URL, when it answers.

    Raises:
        InvalidConfig: the address cannot be bound.
        StoreUnavailable: see `open_rooms`.

    """
    stopping = asyncio.Event()
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut_stream)
    with _bind(config.server.host, config.server.port) as listener:
        async with open_rooms(config) as rooms, working(rooms) as work:
            services = Services(
                config=config,
                blobs=rooms.blobs,
                metadata=rooms.metadata,
                intake=rooms.intake,
                turns=rooms.turns,
                count=rooms.progress.count,
                list_models=rooms.fleet.served_models,
                list_replicas=lambda: rooms.dispatcher.replica_statuses,
                signing_key=await rooms.metadata.get_secret("upload_signing_key"),
                stopping=stopping,
            )
            settings = uvicorn.Config(
                create_app(services),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=_HTTP_DRAIN_S,
                server_header=False,
            )
            server = _Server(settings, lambda: announce(_url_of(listener)), stopping)
            work.add_done_callback(lambda _: server.stop())
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, server.stop)
            await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, told when to stop by us and telling us when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping

    def stop(self) -> None:
        """End politely; a second call ends at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_no_cut_stream(record: logging.LogRecord) -> bool:
    """Results that a client follows are cut on purpose when the server stops (`web.api.results`)."""
    return record.msg != "ASGI callable returned without completing response."


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        message = f"Cannot listen on {host} port {port}: {error.strerror}. Choose another --port, or 0 for a free one."
        raise InvalidConfig(message, param="server.port") from None
    return listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
