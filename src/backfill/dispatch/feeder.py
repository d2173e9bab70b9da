"""Keeps one replica as full as pays, with lines of whichever batches have some for it."""

import asyncio
import math
import random
from collections.abc import Sequence
from contextlib import suppress

import structlog

from backfill.batch import Outcome, Usage
from backfill.config import DispatchConfig
from backfill.dispatch.breaker import Breaker
from backfill.dispatch.concurrency import ConcurrencyController
from backfill.dispatch.lane import Job, Lane
from backfill.dispatch.observer import Observer
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.prefix_gate import Passage, PrefixGate
from backfill.dispatch.residency import Residency
from backfill.dispatch.retry import choose_delay_s, render_loss
from backfill.engines import Answered, Lost, LostReason, Refused, Replica, Reply
from backfill.errors import EngineUnavailable, StoreUnavailable
from backfill.status import ReplicaState, ReplicaStatus

__all__ = ["Feeder"]

_TICK_S = 0.25
# So often a line may get a 429 although others were answered meanwhile: then it is the line that is too much.
_REJECTIONS_MAX = 20
_log = structlog.get_logger(__name__)


class Feeder:
    """Workers, as many as the controller allows; each takes a line, sends it and records what came back.

    A worker lives while there are lines that it may send. Whatever may make room or work (a line that comes back, a
    first token, a higher limit, a pause that is over) wakes the feeder, which starts workers again.
    """

    def __init__(
        self, replica: Replica, policy: DispatchConfig, dice: random.Random, residency: Residency | None = None
    ) -> None:
        self.replica = replica
        self.trouble: str | None = None
        """Why nothing is sent now; None if all is well."""
        self.in_flight = 0
        """Requests that are with the replica now."""
        self._policy = policy
        self._dice = dice
        self._residency = residency
        self._lanes: list[Lane[OpenTurn]] = []
        self._others: dict[Lane[OpenTurn], Sequence[Feeder]] = {}
        self._wake = asyncio.Event()
        self._breaker = Breaker(policy, dice)
        self._workers = 0
        self._room = 0
        self._crowd = 0
        self._crowded_until_s = -math.inf
        self._replied_at_s = -math.inf
        self._is_held_back = False
        self._loop = asyncio.get_running_loop()
        self._group: asyncio.TaskGroup | None = None
        limits = replica.limits
        self._gate = PrefixGate(replica.cache_habit, limits.lines_per_prefix, self._release)
        self._controller = ConcurrencyController(limits.concurrency, limits.first_concurrency)
        self._limits = limits
        self.observer = Observer(replica)

    @property
    def has_unfinished(self) -> bool:
        """Whether lines are there for the replica, in flight, or waiting for another try."""
        return self.in_flight > 0 or any(lane.is_open and (lane.unsent or lane.delayed) for lane in self._lanes)

    @property
    def due(self) -> tuple[int, int]:
        """Deadline and creation of the batch that is due first, in ms since the epoch."""
        waiting = (lane for lane in self._lanes if lane.is_open and (lane.unsent or lane.delayed))
        batch = next((lane.turn.turn.batch for lane in waiting), None)
        return (2**63, 0) if batch is None else (batch.deadline_at_ms, batch.created_at_ms)

    @property
    def is_well(self) -> bool:
        """Whether lines may be left to this replica."""
        is_paused = self._breaker.pause_left_s(self._loop.time()) > 0
        return self.replica.address is not None and not self._breaker.is_probing and not is_paused

    @property
    def status(self) -> ReplicaStatus:
        """How the replica is, for those who watch."""
        now_s = self._loop.time()
        if self.trouble == "starting":
            state = ReplicaState.STARTING
        elif self._breaker.pause_left_s(now_s) > 0:
            state = ReplicaState.PAUSED
        elif self.replica.address is None:
            state = ReplicaState.DOWN
        else:
            state = ReplicaState.PROBING if self._breaker.is_probing else ReplicaState.UP
        bottleneck = self.observer.name_bottleneck(self._controller.bottleneck, has_work=self.has_unfinished)
        return self.observer.describe(
            state, bottleneck, in_flight=self.in_flight, limit=self._controller.limit, trouble=self.trouble
        )

    def offer(self, lane: Lane[OpenTurn], others: Sequence["Feeder"] = ()) -> None:
        """Take a lane's lines, which are offered to `others` too; those of the earliest deadline go first."""
        self._lanes.append(lane)
        self._lanes.sort(key=_urgency)
        self._others[lane] = others
        lane.subscribe(self._wake.set)
        self._wake.set()

    def withdraw(self, lane: Lane[OpenTurn]) -> None:
        """Forget a lane."""
        with suppress(ValueError):
            self._lanes.remove(lane)
            del self._others[lane]

    async def run(self) -> None:
        """Feed until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            ticked_at_s = self._loop.time()
            while True:
                if self._loop.time() - ticked_at_s >= _TICK_S:
                    ticked_at_s = self._loop.time()
                    self._tick(ticked_at_s)
                if any(lane.unsent for lane in self._lanes) and await self._make_ready():
                    self._fill()
                await self._rest()

    async def _rest(self) -> None:
        """Wait until something changes; while there is work, no longer than a tick."""
        is_busy = self.in_flight or any(lane.unsent for lane in self._lanes)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S if is_busy else None):
                await self._wake.wait()
        self._wake.clear()

    def _tick(self, now_s: float) -> None:
        if self.in_flight or self._lanes:
            gauges = self.observer.observe(
                now_s,
                self._group,
                disk_is_behind=any(lane.turn.is_behind for lane in self._lanes),
                in_flight=self.in_flight,
            )
            self._controller.tick(now_s, self.in_flight, gauges, has_work=self._is_held_back)
            self._room = self._allowed()
            self.observer.tell_bottleneck(now_s, self._controller, has_work=self.has_unfinished)

    async def _make_ready(self) -> bool:
        """Whether lines may be sent now; starts the replica if need be."""
        pause_s = self._breaker.pause_left_s(self._loop.time())
        if pause_s > 0:
            if pause_s < _TICK_S:
                self._loop.call_later(pause_s, self._wake.set)
            return False
        if self._residency is not None and not await self._residency.claim(self):
            return False
        if self.replica.address is None:
            await self._start_replica()
        return self.replica.address is not None

    async def _start_replica(self) -> None:
        self.trouble = self.trouble or "starting"
        try:
            await self.replica.start()
        except EngineUnavailable as error:
            self._breaker.note_outage(self._loop.time(), self._loop.time())
            self._note_trouble(error.message)
            if self._residency is not None:
                await self._residency.give_up(self)
        else:
            self._note_trouble(None)
            self._adopt_replica()

    def _adopt_replica(self) -> None:
        """Learn what the replica is: which engine was chosen shows when it is up, and a new one's cache is empty."""
        limits = self.replica.limits
        self._gate.forget()
        if self.in_flight == 0:
            self._gate = PrefixGate(self.replica.cache_habit, limits.lines_per_prefix, self._release)
        if limits != self._limits:
            self._limits = limits
            self._controller = ConcurrencyController(limits.concurrency, limits.first_concurrency)

    def _release(self, prefix: int) -> None:
        for lane in self._lanes:
            lane.release(self.replica.name, prefix)
        self._wake.set()

    def _note_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            _log.warning("engine unavailable, waiting", engine=self.replica.name, reason=trouble)
        elif trouble is None and self.trouble not in (None, "starting"):
            _log.info("engine available again", engine=self.replica.name)
        self.trouble = trouble

    def _allowed(self) -> int:
        """How many workers there may be now. Kept in `_room`, because it is asked for after each reply."""
        if self.replica.address is None or self._breaker.pause_left_s(self._loop.time()) > 0:
            return 0
        if self._residency is not None and not self._residency.may_send(self):
            return 0
        if self._breaker.is_probing:
            return 1
        is_crowded = self._loop.time() < self._crowded_until_s
        return min(self._controller.limit, self._crowd) if is_crowded else self._controller.limit

    def _fill(self) -> None:
        assert self._group is not None  # noqa: S101 - only `run` calls this
        self._room = self._allowed()
        while self._workers < self._room:
            taken = self._take()
            if taken is None:
                self._is_held_back = False
                return
            self._workers += 1
            self._group.create_task(self._work(*taken), name=f"feed {self.replica.name}")
        self._is_held_back = any(lane.unsent for lane in self._lanes)

    async def _work(self, lane: Lane[OpenTurn], job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        try:
            if not lane.is_open:
                # It was closed between the taking and this: the turn's files may be closed too.
                self.in_flight -= 1
                _leave(job.passage, None)
                return
            while True:
                await self._send(lane, job, task)
                taken = self._take() if self._workers <= self._room else None
                if taken is None:
                    return
                lane, job = taken
        finally:
            self._workers -= 1
            self._wake.set()

    def _take(self) -> tuple[Lane[OpenTurn], Job] | None:
        for lane in self._lanes:
            if lane.unsent and not (self._others[lane] and self._leaves_to_others(lane)):
                job = lane.take(self.replica.name, self._gate)
                if job is not None:
                    # Counted from here on, so that nobody takes the replica's memory before the worker begins.
                    self.in_flight += 1
                    return lane, job
        return None

    def _leaves_to_others(self, lane: Lane[OpenTurn]) -> bool:
        """Whether the others would be through with all lines that are left before this replica is with one."""
        others = [feeder.observer.tally for feeder in self._others[lane] if feeder.is_well]
        requests_per_s = sum(tally.requests_per_s for tally in others)
        if requests_per_s <= 0:
            return False
        wait_s = lane.unsent / requests_per_s + max(tally.duration_s for tally in others)
        return wait_s < self.observer.tally.duration_s

    async def _send(self, lane: Lane[OpenTurn], job: Job, task: "asyncio.Task[None]") -> None:
        turn, replica = lane.turn, self.replica
        passage = job.passage
        reply: Reply | None = None
        turn.depart(task)
        try:
            started_s = self._loop.time()
            body = lane.body_for(replica, turn.read_body(job.line))
            if passage is None:
                reply = await replica.send(turn.endpoint, body)
            else:
                reply = await replica.send(turn.endpoint, body, passage.note_first_token)
            self._settle(lane, job.line, reply, started_s, self._loop.time())
            if not isinstance(reply, Lost) and job.line in turn.twins:
                self.observer.tally.reused += await turn.answer_twins(lane, job.line, reply)
        except StoreUnavailable as error:
            # The input cannot be read now: that ends the turn, which is tried again, and nobody else's work.
            turn.fail(error)
        except asyncio.CancelledError:
            # The batch was stopped while the worker goes on; a worker that is ended itself finds its lane open.
            if lane.is_open:
                raise
            task.uncancel()
        finally:
            self.in_flight -= 1
            turn.land(task)
            _leave(passage, reply)
        if turn.is_behind:
            await turn.wait_for_disk()
            # Another replica may have the memory by now, or this one a pause.
            self._room = self._allowed()

    def _settle(self, lane: Lane[OpenTurn], line: int, reply: Reply, started_s: float, now_s: float) -> None:
        turn, duration_s = lane.turn, now_s - started_s
        match reply:
            case Answered():
                turn.record(line, Outcome.ANSWERED, reply.status, reply.usage, duration_s, reply.body)
                self._note_reply(reply.usage, started_s, now_s)
            case Refused():
                turn.record(line, Outcome.REFUSED, reply.status, Usage(), duration_s, reply.body)
                self._note_reply(Usage(), started_s, now_s)
            case Lost():
                self._try_again(lane, line, reply, started_s, now_s)
                self._room = self._allowed()

    def _note_reply(self, usage: Usage, started_s: float, now_s: float) -> None:
        duration_s = now_s - started_s
        self._replied_at_s = now_s
        self._breaker.note_reply(started_s)
        self.observer.tally.add(usage, duration_s)
        controller = self._controller
        limit = controller.limit
        controller.note_reply(now_s, duration_s, usage.completion_tokens)
        if controller.limit > limit:
            self._wake.set()

    def _try_again(self, lane: Lane[OpenTurn], line: int, lost: Lost, started_s: float, now_s: float) -> None:
        turn, tally = lane.turn, self.observer.tally
        if lost.never_sent:
            # The engine failed, not the line: it costs no try.
            lane.put_back(line)
            self._breaker.note_outage(now_s, started_s)
            self._note_trouble(lost.message)
            return
        if self._is_rejection(lost, started_s, now_s) and turn.note_rejection(line, tally.answered) < _REJECTIONS_MAX:
            # Nor does this: nothing was computed, and the same line is let in at another moment. Others go first
            # after the pause, or a line that is too much would be every probe.
            tally.lost += lost.reason is not LostReason.RATE_LIMITED
            asked_s = min(lost.retry_after_s or 0.0, self._policy.retry_after_max_s)
            pause_s = max(asked_s, self._breaker.pause_left_s(now_s))
            lane.put_back_later(line, pause_s + _TICK_S + self._dice.uniform(0.0, self._policy.backoff_s))
            return
        tally.lost += 1
        self._breaker.note_loss(now_s, started_s, has_alternative=bool(self._others.get(lane)))
        tries = turn.tries.get(line, 0) + 1
        if tries >= self._policy.tries or lost.reason is LostReason.RATE_LIMITED:
            turn.tries[line] = tries - 1
            body = render_loss(lost, tries)
            turn.record(line, Outcome.EXHAUSTED, lost.status or 0, Usage(), now_s - started_s, body)
            turn.send_next_twin(lane, line)
            return
        turn.tries[line] = tries
        lane.put_back_later(line, choose_delay_s(self._policy, lost, tries, self._dice))

    def _is_rejection(self, lost: Lost, started_s: float, now_s: float) -> bool:
        """Whether the replica is well and only has too much to do: it says 429, or 503 while it answers others."""
        tally = self.observer.tally
        if lost.reason is LostReason.RATE_LIMITED:
            tally.rate_limited += 1
            self._controller.note_rejection(now_s)
            self._breaker.note_rate_limit(now_s, started_s, lost.retry_after_s)
        elif lost.status == 503:
            self._controller.note_rejection(now_s)
            if now_s - self._replied_at_s > max(_TICK_S, tally.duration_s):
                return False
            # Its queue is full: until the next tick no more than it holds, or each worker would be turned away again.
            self._crowd, self._crowded_until_s = max(1, self.in_flight - 1), now_s + _TICK_S
        else:
            return False
        return True


def _leave(passage: Passage | None, reply: Reply | None) -> None:
    if passage is not None:
        passage.note_end(computed=isinstance(reply, Answered))


def _urgency(lane: Lane[OpenTurn]) -> tuple[int, int, str]:
    batch = lane.turn.turn.batch
    return batch.deadline_at_ms, batch.created_at_ms, batch.id
