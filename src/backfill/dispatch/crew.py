"""All processes with engines, as one without any sees them: by what they told last."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import structlog

from backfill.batch import Batch, State
from backfill.errors import StoreUnavailable
from backfill.status import ReplicaState, ReplicaStatus, ServedModel, Waiting, WaitReason, WorkerStatus
from backfill.store import Workers
from backfill.turns import now_ms

__all__ = ["Crew"]

_PERIOD_S = 1.0
_BATCHES_NAMED = 5
_log = structlog.get_logger(__name__)


class Crew:
    """What is known of the workers; read anew once a second until stopped."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._known: Sequence[WorkerStatus] = ()
        self._alone_since_ms = now_ms()
        self._stopping = asyncio.Event()

    @property
    def workers(self) -> Sequence[WorkerStatus]:
        """All that are known, those that are lost among them."""
        return self._known

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """The replicas of all workers, each with its worker's name behind its own."""
        now = now_ms()
        return tuple(_name(worker, replica, now) for worker in self._known for replica in worker.report.replicas)

    async def list_models(self) -> list[ServedModel]:
        """What the living ones serve."""
        now = now_ms()
        found: dict[str, set[str]] = {}
        for worker in self._known:
            if not worker.is_lost(now):
                for model in worker.report.models:
                    found.setdefault(model.id, set()).update(model.endpoints)
        return [ServedModel(model, tuple(sorted(endpoints))) for model, endpoints in sorted(found.items())]

    def find_wait(self, batch: Batch) -> Waiting | None:
        """Why a batch does not move, as far as it can be told from here."""
        now = now_ms()
        if batch.state.is_final or batch.state is State.PAUSED or any(not each.is_lost(now) for each in self._known):
            return None
        message = "No process that has engines runs (backfill serve --role work)."
        return Waiting.explain(WaitReason.ENGINE, message, max(self._alone_since_ms, batch.created_at_ms))

    async def run(self) -> None:
        """Read until `stop` is called."""
        while not self._stopping.is_set():
            await self._read()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD_S):
                    await self._stopping.wait()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def _read(self) -> None:
        try:
            self._known = await self._workers.list()
        except StoreUnavailable as error:
            _log.warning("what engines do cannot be told now", reason=error.message)
            return
        now = now_ms()
        if any(not worker.is_lost(now) for worker in self._known):
            self._alone_since_ms = now


def _name(worker: WorkerStatus, replica: ReplicaStatus, now: int) -> ReplicaStatus:
    named = msgspec.structs.replace(replica, name=f"{replica.name}@{worker.host}:{worker.pid}")
    if not worker.is_lost(now):
        return named
    held = worker.report.batches
    more = f" and {len(held) - _BATCHES_NAMED} more" if len(held) > _BATCHES_NAMED else ""
    told = f"it worked on {', '.join(held[:_BATCHES_NAMED])}{more}" if held else "it worked on no batch"
    silent_s = (now - worker.seen_at_ms) // 1000
    return msgspec.structs.replace(
        named,
        state=ReplicaState.DOWN,
        in_flight=0,
        requests_per_s=0.0,
        completion_tokens_per_s=0.0,
        trouble=f"Its process is lost: it has told nothing for {silent_s} s; {told}.",
    )
