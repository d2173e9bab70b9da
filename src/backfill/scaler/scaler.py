"""The loop: look at what waits and at who is there, and have as many workers as that needs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from backfill.config import RayConfig
from backfill.config.engines import EngineConfig
from backfill.errors import EngineUnavailable, StoreUnavailable
from backfill.plan import Bounds, Descent, Sight, want_replicas
from backfill.scaler.cluster import Cluster, Phase, Placed, Placement
from backfill.scaler.demand import DemandReader, EngineDemand
from backfill.scaler.notice import Notice, ReplicasNow
from backfill.status import WORKER_SILENCE_MS
from backfill.store import Workers
from backfill.turns import Bell, Duties

__all__ = ["SCALING", "Rows", "Scaler"]

SCALING = "scaling"
"""Of all processes with the role "scale" one decides; the others stand by."""
_PERIOD_S = 2.0
_PAUSE_MAX_S = 30.0
_log = structlog.get_logger(__name__)


class Rows(NamedTuple):
    """What the scaler reads and writes."""

    demand: DemandReader
    workers: Workers
    clock_ms: Callable[[], int]
    """The clock that all processes share."""
    lease_ms: int


class Scaler:
    """Decides again and again until stopped. What it decided last it need not know: who is there says the cluster."""

    def __init__(
        self,
        engines: Mapping[str, EngineConfig],
        settings: RayConfig,
        rows: Rows,
        cluster: Cluster,
        duties: Duties,
        notice: Notice,
    ) -> None:
        """`engines`: those that are placed on the cluster."""
        self._engines = engines
        self._bounds = {
            name: Bounds(engine.replicas.min, engine.replicas.max, settings.idle_s, settings.clear_s, settings.start_s)
            for name, engine in engines.items()
        }
        self._rows = rows
        self._cluster = cluster
        self._duties = duties
        self._notice = notice
        self._silence_ms = min(WORKER_SILENCE_MS, rows.lease_ms // 2)
        self._descents: dict[str, Descent] = {}
        self._is_deciding = False
        self._pause_s = _PERIOD_S
        self._stopping = asyncio.Event()

    async def run(self, bell: Bell) -> None:
        """Look whenever the bell rings, and every two seconds; less often while something does not answer."""
        while not self._stopping.is_set():
            try:
                await self._look()
            except (EngineUnavailable, StoreUnavailable) as error:
                # Who is there goes on; nobody comes and nobody goes until it is known what waits and who is there.
                self._notice.trouble = error.message
                _log.warning("nothing can be decided now", reason=error.message)
                self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)
            await self._notice.tell()
            # A ring says that a batch has changed: that is no reason to ask a cluster that does not answer.
            await (self._rest() if self._notice.trouble else bell.wait(self._pause_s))

    def stop(self) -> None:
        """End `run`; the workers stay as they are."""
        self._stopping.set()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        is_deciding = await self._duties.has(SCALING)
        if is_deciding != self._is_deciding:
            self._is_deciding = is_deciding
            # What another one saw meanwhile is not known here.
            self._descents = {name: Descent(bounds.idle_s) for name, bounds in self._bounds.items()}
            _log.info("this scaler decides" if is_deciding else "another scaler decides")
        self._notice.replicas = {} if not is_deciding else self._notice.replicas
        if is_deciding:
            await self._adjust()
        self._notice.trouble = ""
        self._pause_s = _PERIOD_S

    async def _adjust(self) -> None:
        placed = await self._cluster.list()
        workers = await self._rows.workers.list()
        now = self._rows.clock_ms()
        living = {worker.id for worker in workers if not worker.is_lost(now, self._silence_ms)}
        demand = await self._rows.demand.read(workers, living, now)
        busy = {(worker.host, worker.pid) for worker in workers if worker.id in living and worker.report.batches}
        for one in placed:
            if one.phase is Phase.ENDED:
                await self._cluster.remove(one.placement)
            elif one.engine not in self._engines and one.counts:
                _log.info("worker of an engine that is not configured any more is stopped", **one.placement._asdict())
                await self._cluster.drain(one.placement)
        for engine in self._engines:
            own = [one for one in placed if one.engine == engine and one.phase is not Phase.ENDED]
            await self._adjust_engine(engine, own, demand[engine], busy)

    async def _adjust_engine(
        self, engine: str, own: Sequence[Placed], demand: EngineDemand, busy: set[tuple[str, int]]
    ) -> None:
        counted = [one for one in own if one.counts]
        occupied = sum((one.host, one.pid) in busy for one in counted)
        sight = Sight(demand.demands, len(counted), occupied, demand.free_turns)
        wanted = want_replicas(self._bounds[engine], sight)
        now_s = asyncio.get_running_loop().time()
        is_stopping = len(counted) < len(own)
        chosen = self._descents[engine].choose(now_s, wanted, len(counted), is_stopping=is_stopping)
        self._notice.replicas[engine] = ReplicasNow(counted, chosen)
        if chosen > len(counted):
            await self._start(engine, chosen - len(counted), {one.number for one in own})
        elif chosen < len(counted):
            # First one that has nothing to do, and of those the youngest.
            last = max(counted, key=lambda one: ((one.host, one.pid) not in busy, one.number))
            _log.info("replica is stopped", engine=engine, number=last.number, of=len(counted), wanted=wanted)
            await self._cluster.drain(last.placement)

    async def _start(self, engine: str, count: int, taken: set[int]) -> None:
        free = (number for number in range(1, len(taken) + count + 1) if number not in taken)
        for number, _ in zip(free, range(count), strict=False):
            _log.info("replica is started", engine=engine, number=number)
            await self._cluster.start(Placement(engine, number), self._engines[engine].resources)
