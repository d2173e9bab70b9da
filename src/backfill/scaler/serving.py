"""`backfill serve --role scale`: the scaler, and beside it all that workers do without engines.

Where no worker runs, batches are admitted, expire, are gathered and announced all the same.
"""

import asyncio
import hashlib
import signal
from collections.abc import Callable

import structlog

from backfill.app import Rooms, open_rooms, working
from backfill.config import Config, Role
from backfill.errors import InvalidConfig
from backfill.scaler.cluster import Cluster
from backfill.scaler.demand import DemandReader
from backfill.scaler.notice import Notice
from backfill.scaler.ray_cluster import RayCluster
from backfill.scaler.scaler import Rows, Scaler
from backfill.store import Metadata, Workers
from backfill.turns import ALL_BATCHES

__all__ = ["serve_scaler"]

_TICK_S = 1.0
_log = structlog.get_logger(__name__)


async def serve_scaler(config: Config, announce: Callable[[], None]) -> None:
    """Until SIGINT or SIGTERM; the workers on the cluster go on.

    `announce` is called once, when the scaler looks at what waits.

    Raises:
        InvalidConfig: no engine is placed on Ray, or Ray is not installed.
        StoreUnavailable: see `open_rooms`.

    """
    if not config.engines_on_ray:
        message = 'No engine has place = "ray", so there is nothing to scale.'
        raise InvalidConfig(message, param="engines")
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with open_rooms(config, role=Role.SCALE) as rooms:
        cluster = RayCluster(config.ray, await name_installation(rooms.metadata))
        try:
            async with working(rooms) as work:
                await _scale(rooms, cluster, work, stopping, announce)
        finally:
            await cluster.close()


async def _scale(
    rooms: Rooms, cluster: Cluster, work: "asyncio.Task[None]", stopping: asyncio.Event, announce: Callable[[], None]
) -> None:
    scaler, notice = make_scaler(rooms, cluster)
    tasks = [
        asyncio.create_task(scaler.run(rooms.turns.subscribe()), name="scale"),
        asyncio.create_task(_admit(rooms, stopping), name="admit and expire"),
        asyncio.create_task(stopping.wait(), name="wait for the end"),
        work,
    ]
    announce()
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    scaler.stop()
    stopping.set()
    rooms.turns.ring_bells()
    # A call that Ray does not answer must not keep this process from ending.
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks[:3], return_exceptions=True)
    await notice.withdraw()
    for task in done - {work}:
        task.result()


def make_scaler(rooms: Rooms, cluster: Cluster) -> tuple[Scaler, Notice]:
    """One that reads and writes the rows of these rooms, and what it tells of itself."""
    database, config = rooms.metadata.database, rooms.config
    workers, clock_ms, lease_ms = Workers(database), database.now_ms, config.server.lease_ms
    notice = Notice(workers, rooms.turns.holder, rooms.fleet, clock_ms, lease_ms)
    rows = Rows(DemandReader(database, rooms.fleet, rooms.catalogue.resolve), workers, clock_ms, lease_ms)
    return Scaler(config.engines_on_ray, config.ray, rows, cluster, rooms.turns.duties, notice), notice


async def name_installation(metadata: Metadata) -> str:
    """What tells this installation's actors from those of others on the same cluster: the same for all processes."""
    return hashlib.sha256(await metadata.get_secret("installation")).hexdigest()[:12]


async def _admit(rooms: Rooms, stopping: asyncio.Event) -> None:
    """What else the dispatcher of a worker does beside its own turns."""
    bell = rooms.turns.subscribe()
    while not stopping.is_set():
        for step in (rooms.turns.admit_waiting, rooms.turns.expire_due):
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on, for the other batches
                rooms.turns.setbacks.note(ALL_BATCHES, error, "metadata unavailable, trying again")
        await bell.wait(_TICK_S)
