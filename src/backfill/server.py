"""The rooms behind HTTP: listen, answer, stop politely."""

import asyncio
import functools
import gc
import ipaddress
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
import uvicorn

from backfill.accounts import UsageTotals, WebhookSecrets
from backfill.app import Rooms, open_rooms, working
from backfill.config import Config, Role
from backfill.errors import InvalidConfig
from backfill.intake import describe_data_size
from backfill.live import RELAY_SECRET, make_relay_key
from backfill.plan import prepare
from backfill.status import MetricsSource
from backfill.store import UsageRecords, choose_driver
from backfill.telemetry import open_tracing, tracing_along
from backfill.web import api, dashboard

if TYPE_CHECKING:
    from backfill.telemetry import Tracing

__all__ = ["find_address", "find_readiness", "serve"]

# Open downloads and polls may finish; a client that reads for ever must not keep the server from ending.
_HTTP_DRAIN_S = 5
_LOOPBACK = "127.0.0.1"
_DATAGRAM = socket.SOCK_DGRAM
_log = structlog.get_logger(__name__)


async def serve(config: Config, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then stop feeding, keep what is done and end the engines.

    `announce` is called once with the server's own URL, when it answers; with an empty one if it works and has no port
    that anybody asked for.

    Raises:
        InvalidConfig: the address cannot be bound.
        StoreUnavailable: see `open_rooms`.

    """
    _allow_many_files()
    role = config.server.role
    if role is Role.ALL and config.engines_on_ray and not config.store.is_remote:
        message = 'Engines with place = "ray" need processes with the roles "api" and "scale"; "all" would be alone.'
        raise InvalidConfig(message, param="server.role")
    port = config.server.port if role is not Role.WORK else config.server.work_port
    if port is None and not config.live.relay:
        await _work_unseen(config, announce)
        return
    stopping = asyncio.Event()
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut_stream)
    with _bind(await _choose_host(config), port or 0) as listener:
        tracing = open_tracing(config.telemetry)
        address = await asyncio.to_thread(find_address, config, listener) if config.live.relay else ""
        async with (
            open_rooms(config, role=role, address=address) as rooms,
            tracing_along(tracing, rooms.fleet.replicas, rooms.turns, rooms.metadata),
            working(rooms) as work,
            AsyncExitStack() as stack,
        ):
            # A fifth of a start, in which batches of an earlier process are worked on already.
            await asyncio.to_thread(_load_api)
            services = await _wire(config, rooms, stopping, tracing)
            pages = None if role is Role.WORK else await stack.enter_async_context(_opened_pages(services))
            settings = uvicorn.Config(
                api.create_watched_app(services) if role is Role.WORK else api.create_app(services, pages),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=_HTTP_DRAIN_S,
                server_header=False,
            )
            loop = asyncio.get_running_loop()

            def tell_ready() -> None:
                announce("" if port is None else _url_of(listener))
                # The first batch may be large; it should not be the one that waits for this.
                loop.run_in_executor(None, prepare)

            server = _Server(settings, tell_ready, stopping)
            work.add_done_callback(lambda _: server.stop())
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, server.stop)
            await server.serve(sockets=[listener])


def _allow_many_files() -> None:
    """Readers keep each segment of a journal open, and a large batch that was cut has hundreds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _work_unseen(config: Config, announce: Callable[[str], None]) -> None:
    """Work until SIGINT or SIGTERM, and answer no HTTP."""
    stopping = asyncio.Event()
    tracing = open_tracing(config.telemetry)
    async with (
        open_rooms(config, role=Role.WORK) as rooms,
        tracing_along(tracing, rooms.fleet.replicas, rooms.turns, rooms.metadata),
        working(rooms) as work,
    ):
        work.add_done_callback(lambda _: stopping.set())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        announce("")
        await stopping.wait()


async def _wire(config: Config, rooms: Rooms, stopping: asyncio.Event, tracing: "Tracing | None") -> "api.Services":
    """What the handlers are given."""
    crew = rooms.crew
    return api.Services(
        config=config,
        blobs=rooms.blobs,
        metadata=rooms.metadata,
        keys=rooms.keys,
        intake=rooms.intake,
        turns=rooms.turns,
        measure=rooms.progress.measure,
        usage=rooms.usage,
        metrics_sources=_list_metrics(rooms),
        find_wait=(crew or rooms.dispatcher).find_wait,
        forecast=rooms.forecaster.find,
        foresee=rooms.forecaster.foresee,
        live=rooms.live,
        relay_key=await _make_relay_key(rooms),
        catalogue=rooms.catalogue,
        list_models=(crew or rooms.fleet).list_models,
        collect=rooms.retention.collect,
        list_replicas=lambda: (crew or rooms.dispatcher).replica_statuses,
        is_shared=not rooms.turns.duties.is_alone,
        find_webhook_secret=WebhookSecrets(rooms.metadata).find,
        signing_key=await rooms.metadata.get_secret("upload_signing_key"),
        readiness=find_readiness(rooms),
        trace=tracing.wrap if tracing else None,
        stopping=stopping,
    )


async def _make_relay_key(rooms: Rooms) -> str:
    """What others have to show who pass live requests on to this process; empty if none may."""
    if rooms.heartbeat is None or not rooms.heartbeat.address:
        return ""
    return make_relay_key(await rooms.metadata.get_secret(RELAY_SECRET), rooms.turns.holder)


@asynccontextmanager
async def _opened_pages(services: "api.Services") -> "AsyncIterator[dashboard.Dashboard | None]":
    """The pages for people, if they are wanted."""
    if not services.config.server.dashboard:
        yield None
        return
    pages = dashboard.Dashboard(services)
    history = asyncio.create_task(pages.run(), name="keep the history of engines")
    try:
        yield pages
    finally:
        history.cancel()
        pages.close()


def _load_api() -> None:
    _ = api.create_app
    # As at the beginning of the work: what was loaded stays, and need not be looked at again.
    gc.freeze()


def _list_metrics(rooms: Rooms) -> Sequence[MetricsSource]:
    totals = UsageTotals(UsageRecords(rooms.metadata.database), rooms.config.money)
    return (totals.describe, rooms.quota.describe, functools.partial(describe_data_size, rooms.intake.data_size))


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


def find_readiness(rooms: Rooms) -> "api.Readiness":
    """What must work for the server to be sent anything."""
    checks = {"database": rooms.metadata.database.check, "disk": lambda: asyncio.to_thread(rooms.blobs.probe)}
    if rooms.role is not Role.API:
        checks["dispatcher"] = rooms.dispatcher.check
    return api.Readiness(checks)


async def _choose_host(config: Config) -> str:
    """Where to listen: as configured, or on this machine alone as long as nobody is asked for a key."""
    host = config.server.host
    if _is_loopback(host) or config.server.api_keys:
        return host
    if await asyncio.to_thread(choose_driver(config.store, config.data_dir).has_keys):
        return host
    loopback = "::1" if ":" in host else _LOOPBACK
    _log.warning(
        f"there is no API key, so the server listens on {loopback} alone and not on {host}; make one with "
        "`backfill keys create NAME`, or set server.api_keys, and start it again",
        host=loopback,
        configured=host,
    )
    return loopback


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def find_address(config: Config, listener: socket.socket) -> str:
    """Where other processes reach this one: as its settings say, with the port on which it listens if they say none.

    Where they say nothing it is the address on which it listens, or, if it listens on all, the one with which it
    reaches the database: whoever works with the same one is most likely in the same network. It blocks.
    """
    host, port = listener.getsockname()[:2]
    advertised = config.server.advertise
    if not advertised:
        return _write_url(_find_own_address(config) if ipaddress.ip_address(host).is_unspecified else host, port)
    scheme, _, place = advertised.rstrip("/").rpartition("://")
    if not scheme:
        scheme, place = "http", place if _names_port(place) else f"{place}:{port}"
    return f"{scheme}://{place}"


def _find_own_address(config: Config) -> str:
    metadata = config.store.metadata
    database = urlsplit(metadata.get_secret_value()) if metadata is not None and config.store.is_remote else None
    if database is None or not database.hostname:
        return _LOOPBACK
    with suppress(OSError):
        for family, kind, _, _, place in socket.getaddrinfo(database.hostname, database.port or 1, type=_DATAGRAM):
            # Nothing is sent: the system only says which of its addresses it would use.
            with suppress(OSError), socket.socket(family, kind) as looking:
                looking.connect(place)
                return str(looking.getsockname()[0])
    return _LOOPBACK


def _names_port(place: str) -> bool:
    return ":" in place.rpartition("]")[2]


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return _write_url(host, port)


def _write_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
