"""A process without engines before one that has some, with real connections between the two."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from backfill.app import Rooms
from backfill.live import RelayedTraffic, make_relay_key
from backfill.status import WorkerReport, WorkerStatus
from backfill.web.api import create_app, create_watched_app
from tests.unit.web.serving import serve

__all__ = ["SECRET", "WORKER_ID", "Seen", "make_worker", "open_relayed", "open_worker"]

SECRET = b"s" * 32
WORKER_ID = "worker-1"


@dataclass
class Seen:
    """What a process without engines knows of those with some."""

    workers: list[WorkerStatus] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    """Ids of those that have told nothing for too long."""
    ended: list[WorkerStatus] = field(default_factory=list)

    @property
    def living(self) -> Sequence[WorkerStatus]:
        return [worker for worker in self.workers if worker.id not in self.silent]

    @property
    def remembered(self) -> Sequence[WorkerStatus]:
        return [*self.workers, *self.ended]


def make_worker(worker_id: str, report: WorkerReport, *, host: str = "", seen_at_ms: int = 1) -> WorkerStatus:
    """As it would tell of itself."""
    return WorkerStatus(
        id=worker_id,
        role="work",
        host=host or socket.gethostname(),
        pid=1,
        version="1",
        started_at_ms=0,
        seen_at_ms=seen_at_ms,
        report=report,
    )


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """The application at a free port; its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server._serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def open_worker(rooms: Rooms, worker_id: str = WORKER_ID) -> AsyncIterator[WorkerStatus]:
    """These rooms answer what others pass on; what they tell of themselves."""
    _, services = serve(rooms, relay_key=make_relay_key(SECRET, worker_id))
    async with listening(create_watched_app(services)) as url:
        models = tuple(await rooms.fleet.list_models())
        report = WorkerReport(
            models=models,
            replicas=rooms.dispatcher.replica_statuses,
            any_model_at=rooms.fleet.endpoints_of_any,
            offers=rooms.fleet.offers,
            address=url,
        )
        yield make_worker(worker_id, report)


@asynccontextmanager
async def open_relayed(rooms: Rooms, seen: Seen) -> AsyncIterator[FastAPI]:
    """The API of a process that knows these workers; but for live requests it is that of `rooms`."""
    live = RelayedTraffic(
        seen, rooms.config.live, SECRET, rooms.config.dispatch.request_timeout_s, rooms.catalogue.resolve
    )
    try:
        yield create_app(replace(serve(rooms)[1], live=live))
    finally:
        await live.close()
