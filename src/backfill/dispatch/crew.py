"""All processes with engines, as one without any sees them: by what they told last."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import structlog

from backfill.batch import Batch, State
from backfill.dispatch.left_turns import explain_left
from backfill.errors import StoreUnavailable
from backfill.index import OTHER_MODELS
from backfill.status import (
    WORKER_MEMORY_MS,
    WORKER_SILENCE_MS,
    ReplicaState,
    ReplicaStatus,
    ServedModel,
    Waiting,
    WaitReason,
    WorkerReport,
    WorkerStatus,
)
from backfill.store import Workers

__all__ = ["Crew"]

_PERIOD_S = 1.0
_BATCHES_NAMED = 5
_log = structlog.get_logger(__name__)


class Crew:
    """What is known of the workers; read anew once a second, or more often with a short lease, until stopped."""

    def __init__(
        self, workers: Workers, clock_ms: Callable[[], int], lease_ms: int, resolve_alias: Callable[[str], str] = str
    ) -> None:
        """`clock_ms`: the clock that all processes share. `resolve_alias` gives the id that a name stands for."""
        self._workers = workers
        self._clock_ms = clock_ms
        self._resolve_alias = resolve_alias
        # With a short lease others have its batches long before.
        self._silence_ms = min(WORKER_SILENCE_MS, lease_ms // 2)
        # Or what a living one told in time would be seen too late.
        self._period_s = min(_PERIOD_S, self._silence_ms / 4000)
        self._known: Sequence[WorkerStatus] = ()
        self._remembered: Sequence[WorkerStatus] = ()
        self._alone_since_ms = clock_ms()
        self._stopping = asyncio.Event()

    @property
    def workers(self) -> Sequence[WorkerStatus]:
        """All that are known, those that are lost among them."""
        return self._known

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """The replicas of all workers, each with its worker's name behind its own."""
        now = self._clock_ms()
        return tuple(self._name(worker, replica, now) for worker in self._known for replica in worker.report.replicas)

    async def list_models(self) -> list[ServedModel]:
        """What the living ones serve."""
        found: dict[str, set[str]] = {}
        for worker in self.living:
            for model in worker.report.models:
                found.setdefault(model.id, set()).update(model.endpoints)
        return [ServedModel(model, tuple(sorted(endpoints))) for model, endpoints in sorted(found.items())]

    def find_wait(self, batch: Batch) -> Waiting | None:
        """Why a batch does not move, as far as it can be told from here."""
        if batch.state.is_final or batch.state is State.PAUSED:
            return None
        workers = [worker.report for worker in self.living if worker.role == "work"]
        placed = [worker.report for worker in self.living if worker.role == "scale"]
        if workers:
            return self._explain_left(batch, workers, placed)
        if placed and self._is_for(batch, placed):
            message = "No worker runs on Ray now; one is started for what waits."
            return Waiting.explain(WaitReason.STARTING, message, batch.created_at_ms)
        if placed:
            message = "No worker runs that serves what its lines name, and no engine on Ray does."
            return Waiting.explain(WaitReason.ENGINE, message, batch.created_at_ms)
        message = "No process that has engines runs (backfill serve --role work)."
        return Waiting.explain(WaitReason.ENGINE, message, max(self._alone_since_ms, batch.created_at_ms))

    def _is_for(self, batch: Batch, placed: Sequence[WorkerReport]) -> bool:
        """Whether engines that a scaler starts serve some of its lines; also if the row does not tell of all models."""
        names = {name for model in batch.reserved for name in (model, self._resolve_alias(model))}
        if not names or OTHER_MODELS in names:
            return True
        return any(report.serves(name, batch.endpoint) for report in placed for name in names)

    def _explain_left(
        self, batch: Batch, living: Sequence[WorkerReport], placed: Sequence[WorkerReport]
    ) -> Waiting | None:
        """What is told of a batch on which nobody works, as its lines are left for a worker that does not run."""
        models = {model for report in living for model in report.left_batches.get(batch.id, ())}
        if not models or any(batch.id in report.batches for report in living):
            return None
        explained = explain_left(batch, sorted(models), living, placed)
        return None if explained is None else Waiting.explain(*explained, batch.started_at_ms or batch.created_at_ms)

    async def run(self) -> None:
        """Read until `stop` is called."""
        while not self._stopping.is_set():
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._stopping.wait()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def look(self) -> None:
        """Read what they told; what was read before stays if it cannot be read now."""
        try:
            workers = await self._workers.list()
        except StoreUnavailable as error:
            _log.warning("what engines do cannot be told now", reason=error.message)
            return
        # Where all are dead, nobody removes their rows.
        oldest_ms = self._clock_ms() - WORKER_MEMORY_MS
        # Those without engines tell each other what keys use.
        self._remembered = [one for one in workers if one.seen_at_ms >= oldest_ms and one.role != "api"]
        self._known = self._find_shown()
        if self.living:
            self._alone_since_ms = self._clock_ms()

    def _find_shown(self) -> list[WorkerStatus]:
        """Without those that have ended in order, or were started again."""
        now = self._clock_ms()
        remembered = [worker for worker in self._remembered if not worker.report.has_ended]
        # In a container each is process 1: what was started again has the name of what was killed.
        latest = {(worker.host, worker.pid): worker.id for worker in remembered}
        return [
            worker
            for worker in remembered
            if latest[worker.host, worker.pid] == worker.id or not worker.is_lost(now, self._silence_ms)
        ]

    @property
    def remembered(self) -> Sequence[WorkerStatus]:
        """All that told of themselves within the last hour, also those that have ended since."""
        return self._remembered

    @property
    def living(self) -> list[WorkerStatus]:
        """Those that must be taken to run."""
        now = self._clock_ms()
        return [worker for worker in self._known if not worker.is_lost(now, self._silence_ms)]

    def _name(self, worker: WorkerStatus, replica: ReplicaStatus, now: int) -> ReplicaStatus:
        named = msgspec.structs.replace(replica, name=f"{replica.name}@{worker.host}:{worker.pid}")
        if not worker.is_lost(now, self._silence_ms):
            return named
        held = worker.report.batches
        more = f" and {len(held) - _BATCHES_NAMED} more" if len(held) > _BATCHES_NAMED else ""
        told = f"it worked on {', '.join(held[:_BATCHES_NAMED])}{more}" if held else "it worked on no batch"
        silent_s = (now - worker.seen_at_ms) // 1000
        return msgspec.structs.replace(
            named,
            state=ReplicaState.DOWN,
            in_flight=0,
            live_in_flight=0,
            waiting_in_engine=None,
            kv_cache_use=None,
            requests_per_s=0.0,
            completion_tokens_per_s=0.0,
            trouble=f"Its process is lost: it has told nothing for {silent_s} s; {told}.",
        )
