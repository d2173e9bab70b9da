"""The loop: take turns, feed the replicas from them, wind them down, give them back."""

import asyncio
import functools
import random
from contextlib import suppress
from typing import NamedTuple

import structlog

from backfill.config import DispatchConfig
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.residency import Residency
from backfill.engines import Fleet
from backfill.errors import BackfillError, NotFound, StoreUnavailable, TurnLost
from backfill.status import ReplicaStatus
from backfill.store import LocalBlobs
from backfill.turns import Turn, Turns

__all__ = ["Dispatcher"]

_TICK_S = 1.0
_RENEWAL_S = 10.0
# An open turn holds an index and a segment; more than this many batches side by side would only share the replicas.
_OPEN_TURNS = 64
_PAUSE_AFTER_FAILURE_S = 5.0
_log = structlog.get_logger(__name__)


class _Work(NamedTuple):
    """A turn that is carried out by a task; setting `over` has it wind down."""

    turn: Turn
    over: asyncio.Event
    task: "asyncio.Task[None]"


class Dispatcher:
    """Works on every batch that is due, until stopped. Whatever it has not finished, the next dispatcher will."""

    def __init__(self, turns: Turns, blobs: LocalBlobs, fleet: Fleet, policy: DispatchConfig) -> None:
        self._turns = turns
        self._blobs = blobs
        self._fleet = fleet
        self._policy = policy
        self._bell = turns.subscribe()
        dice = random.Random()  # noqa: S311 - jitter, not a secret
        shared = {replica.limits.exclusive: Residency() for replica in fleet.replicas if replica.limits.exclusive}
        self._feeders = {
            replica.name: Feeder(replica, policy, dice, shared.get(replica.limits.exclusive))
            for replica in fleet.replicas
        }
        self._open: dict[str, _Work] = {}
        self._stopped = asyncio.Event()

    @property
    def troubles(self) -> dict[str, str]:
        """Replica name -> why nothing is sent to it now, for those of which that is so."""
        return {name: feeder.trouble for name, feeder in self._feeders.items() if feeder.trouble}

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """Every replica, in the order of the configuration."""
        return tuple(feeder.status for feeder in self._feeders.values())

    @property
    def in_flight(self) -> int:
        """Requests that are with the engines now."""
        return sum(feeder.in_flight for feeder in self._feeders.values())

    async def run(self) -> None:
        """Work until `stop` is called, then give all turns back and return."""
        feeding = [asyncio.create_task(feeder.run(), name=f"feed {name}") for name, feeder in self._feeders.items()]
        try:
            await self._run_turns(feeding)
            await self._give_all_back()
        finally:
            for task in feeding:
                task.cancel()
            await asyncio.gather(*feeding, return_exceptions=True)

    def stop(self) -> None:
        """Take no more turns and send no more lines; what is in flight may come back."""
        self._stopped.set()
        for work in self._open.values():
            work.over.set()
        self._bell.ring()

    async def _run_turns(self, feeding: "list[asyncio.Task[None]]") -> None:
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while not self._stopped.is_set():
            for task in feeding:
                if task.done():
                    task.result()
            try:
                await self._turns.admit_waiting()
                await self._turns.expire_due()
                await self._stop_ended()
                await self._open_new()
                if loop.time() - renewed_at >= _RENEWAL_S:
                    await self._turns.renew()
                    renewed_at = loop.time()
            except StoreUnavailable as error:
                _log.error("metadata unavailable, trying again", reason=error.message)
            await self._bell.wait(_TICK_S)

    async def _open_new(self) -> None:
        for turn in await self._turns.take(_OPEN_TURNS - len(self._open), besides=self._open.keys()):
            over = asyncio.Event()
            task = asyncio.create_task(self._carry_out(turn, over), name=f"turn {turn.batch.id}")
            self._open[turn.batch.id] = _Work(turn, over, task)
            task.add_done_callback(functools.partial(self._forget, turn.batch.id))

    def _forget(self, batch_id: str, _task: "asyncio.Task[None]") -> None:
        del self._open[batch_id]
        self._bell.ring()

    async def _stop_ended(self) -> None:
        """Wind down turns whose batch was cancelled, has expired, or was taken over."""
        running = await self._turns.still_running([work.turn for work in self._open.values()])
        for batch_id, work in self._open.items():
            if batch_id not in running:
                work.over.set()

    async def _give_all_back(self) -> None:
        for work in self._open.values():
            work.over.set()
        await asyncio.gather(*(work.task for work in self._open.values()))

    async def _carry_out(self, turn: Turn, over: asyncio.Event) -> None:
        """One turn from its lease to its return. A failure of the disk is reported, and the batch tried again."""
        drained = False
        try:
            opened = await OpenTurn.open(turn, over, self._blobs, self._fleet, reuse=self._policy.reuse_answers)
            drained = await self._feed_from(opened)
            failure: BackfillError | None = opened.failure
        except (StoreUnavailable, NotFound) as error:
            failure = error
        if failure is not None:
            _log.error("batch stopped for now", batch=turn.batch.id, reason=failure.message)
            # The lease keeps the batch from being taken at once: a full disk does not empty in a second.
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_AFTER_FAILURE_S):
                    await self._stopped.wait()
        await self._give_back(turn, drained=drained)

    async def _feed_from(self, opened: OpenTurn) -> bool:
        feeders = {lane: [self._feeders[replica.name] for replica in lane.route.replicas] for lane in opened.lanes}
        for lane, serving in feeders.items():
            for feeder in serving:
                feeder.offer(lane, [other for other in serving if other is not feeder])
        try:
            await opened.over.wait()
            await opened.wind_down(self._policy.cancel_grace_s)
        finally:
            for lane, serving in feeders.items():
                for feeder in serving:
                    feeder.withdraw(lane)
            drained = await opened.close()
        return drained

    async def _give_back(self, turn: Turn, *, drained: bool) -> None:
        try:
            await self._turns.give_back(turn, drained=drained)
        except TurnLost as error:
            _log.warning("turn lost", batch=turn.batch.id, reason=error.message)
        except StoreUnavailable as error:
            _log.error("turn not given back, its lease will run out", batch=turn.batch.id, reason=error.message)
