"""Keeps one replica as full as pays, with lines of whichever batches have some for it."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from backfill.batch import Outcome, Usage
from backfill.config import DispatchConfig
from backfill.dispatch.breaker import Breaker
from backfill.dispatch.concurrency import ConcurrencyController
from backfill.dispatch.hindrance import Hindrance, name_fault
from backfill.dispatch.lane import Job, Lane
from backfill.dispatch.lanes import Lanes
from backfill.dispatch.line_sender import NotSent
from backfill.dispatch.live_share import LiveShare
from backfill.dispatch.losses import Losses
from backfill.dispatch.observer import Observer
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.prefix_gate import PrefixGate, leave_gate
from backfill.dispatch.replies import Replied, Replies
from backfill.dispatch.residency import Residency
from backfill.dispatch.startup import Startup
from backfill.engines import Answered, Lost, Presence, Replica, Reply
from backfill.status import ReplicaState, ReplicaStatus
from backfill.turns import now_ms

__all__ = ["Feeder"]

_TICK_S = 0.25
_NO_USAGE = Usage()
_log = structlog.get_logger(__name__)


class Feeder:
    """Workers, as many as the controller allows; each takes a line, sends it and records what came back.

    A worker lives while there are lines that it may send. Whatever may make room or work (a line that comes back, a
    first token, a higher limit, a pause that is over) wakes the feeder, which starts workers again.
    """

    def __init__(
        self,
        replica: Replica,
        policy: DispatchConfig,
        dice: random.Random,
        residency: Residency | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`clock_ms` says what deadlines are held against."""
        self.replica = replica
        self.hindrance = Hindrance(replica.name)
        self.in_flight = 0
        """Requests that are with the replica now."""
        self._policy = policy
        self._dice = dice
        self._residency = residency
        self._wake = asyncio.Event()
        self._breaker = Breaker(policy, dice)
        self._startup = Startup(replica, self._breaker, self.hindrance)
        self._workers = 0
        self._room = 0
        self._replied: list[Replied] = []
        """What came in this turn of the event loop."""
        self._is_held_back = False
        self._loop = asyncio.get_running_loop()
        self._group: asyncio.TaskGroup | None = None
        limits = replica.limits
        self._gate = PrefixGate(replica.cache_habit, limits.lines_per_prefix, self._release)
        self._controller = ConcurrencyController(limits.concurrency, limits.first_concurrency)
        self._limits = limits
        self.observer = Observer(replica)
        self.tally = self.observer.tally
        """What the replica did."""
        self._losses = Losses(policy, dice, self._breaker, self._startup, self.hindrance, self.tally)
        self.lanes = Lanes(replica.name, self.tally, clock_ms)
        """What it serves, and whose line goes next."""
        self.live: LiveShare = LiveShare(replica)
        """What live requests leave of it."""

    @property
    def trouble(self) -> str | None:
        """Why nothing is sent now; None if all is well."""
        return self._startup.trouble

    @property
    def has_unfinished(self) -> bool:
        """Whether lines are there for the replica, in flight, or waiting for another try."""
        return self.in_flight > 0 or self.lanes.has_unfinished

    @property
    def due(self) -> tuple[int, int]:
        """Deadline and creation of the batch that is due first, in ms since the epoch."""
        return self.lanes.due

    @property
    def owners(self) -> set[str]:
        """Whose lines are there for the replica, or wait for another try."""
        return self.lanes.owners

    @property
    def is_well(self) -> bool:
        """Whether lines may be left to this replica."""
        is_paused = self._breaker.pause_left_s(self._loop.time()) > 0
        return self.replica.address is not None and not self._breaker.is_probing and not is_paused

    @property
    def status(self) -> ReplicaStatus:
        """How the replica is, for those who watch."""
        now_s = self._loop.time()
        if self._startup.is_starting:
            state = ReplicaState.STARTING
        elif self._breaker.pause_left_s(now_s) > 0:
            state = ReplicaState.PAUSED
        elif self.replica.address is None:
            state = ReplicaState.DOWN
        else:
            state = ReplicaState.PROBING if self._breaker.is_probing else ReplicaState.UP
        bottleneck = self.observer.name_bottleneck(self._controller.bottleneck, has_work=self.has_unfinished)
        limit = self._controller.limit
        status = self.observer.describe(state, bottleneck, in_flight=self.in_flight, limit=limit, trouble=self.trouble)
        return self.live.describe(status, limit)

    @property
    def concurrency_limit(self) -> int:
        """Requests that it is given at most, as found so far."""
        return self._controller.limit

    @property
    def rival(self) -> str | None:
        """The replica that has the memory which this one needs, if another one has it."""
        return None if self._residency is None else self._residency.find_rival(self)

    def offer(self, lane: Lane[OpenTurn], others: Sequence["Feeder"] = ()) -> None:
        """Take a lane's lines, which are offered to `others` too."""
        self.lanes.add(lane, others)
        lane.subscribe(self._wake.set)
        self._wake.set()

    def withdraw(self, lane: Lane[OpenTurn]) -> None:
        """Forget a lane."""
        self.lanes.remove(lane)
        self._losses.suspects.forget(lane)

    async def run(self) -> None:
        """Feed until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            ticked_at_s = self._loop.time()
            while True:
                if self._loop.time() - ticked_at_s >= _TICK_S:
                    ticked_at_s = self._loop.time()
                    self._note_replies()
                    self._tick(ticked_at_s)
                if self._has_unsent and await self._make_ready():
                    self._fill()
                await self._rest()

    @property
    def _has_unsent(self) -> bool:
        """Whether lines could be sent now."""
        return self.lanes.has_unsent or self._losses.suspects.has_waiting

    async def _rest(self) -> None:
        """Wait until something changes; while there is work, no longer than a tick."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S if self.in_flight or self._has_unsent else None):
                await self._wake.wait()
        self._wake.clear()

    def _tick(self, now_s: float) -> None:
        if self.in_flight or self.lanes:
            gauges = self.observer.observe(
                now_s,
                self._group,
                disk_is_behind=any(lane.turn.is_behind for lane in self.lanes),
                in_flight=self.in_flight,
            )
            self.live.tick(now_s, gauges, self._controller.limit)
            self._controller.tick(
                now_s, self.in_flight, gauges, has_work=self._is_held_back, is_shared=self.live.is_binding
            )
            if self.replica.limits != self._limits:  # a live request has started it
                self._adopt_replica()
            self.lanes.tick(is_full=self._is_held_back)
            self.observer.pace.tick(now_s, self.in_flight, is_full=self._is_held_back)
            self._room = self._allowed()
            self.observer.tell_bottleneck(now_s, self._controller, has_work=self.has_unfinished)

    async def _make_ready(self) -> bool:
        """Whether lines may be sent now; starts the replica if need be."""
        pause_s = self._breaker.pause_left_s(self._loop.time())
        if pause_s > 0:
            if pause_s < _TICK_S:
                self._loop.call_later(pause_s, self._wake.set)
            return False
        try:
            if self._residency is not None and not await self._residency.claim(self):
                return False
            if self.replica.address is None:
                if await self._startup.start():
                    self._adopt_replica()
                else:
                    self._losses.suspects.release(self.lanes.has_others)
                    if self._residency is not None:
                        await self._residency.give_up(self)
        except Exception as error:  # noqa: BLE001 - an engine that could not be stopped; it must not end the feeding
            self._startup.note_outage(name_fault(self.replica.name, error))
        return self.replica.address is not None

    def _adopt_replica(self) -> None:
        """Learn what the replica is: which engine was chosen shows when it is up, and a new one's cache is empty."""
        limits = self.replica.limits
        self._gate.forget()
        if self.in_flight == 0:
            self._gate = PrefixGate(self.replica.cache_habit, limits.lines_per_prefix, self._release)
        if limits != self._limits:
            self._limits = limits
            self.live.adopt(limits)
            self._controller = ConcurrencyController(limits.concurrency, limits.first_concurrency)

    def _release(self, prefix: int) -> None:
        for lane in self.lanes:
            lane.release(self.replica.name, prefix)
        self._wake.set()

    def _allowed(self) -> int:
        """How many workers there may be now. Kept in `_room`, because it is asked for after each reply."""
        if self.replica.address is None or self._breaker.pause_left_s(self._loop.time()) > 0:
            return 0
        if self._residency is not None and not self._residency.may_send(self):
            return 0
        if self._breaker.is_probing:
            return 1
        return self.live.allow(self._losses.allow(self._controller.limit, self._loop.time()))

    def make_room_for(self, presence: Presence) -> None:
        """Let these live requests go first, from now on."""
        self.live.follow(presence, lambda: self.in_flight, self._note_live)

    def _note_live(self) -> None:
        if self.lanes:
            self.live.take_places(self.in_flight)
            self._room = self._allowed()
            self._wake.set()

    def _fill(self) -> None:
        assert self._group is not None  # noqa: S101 - only `run` calls this
        self._room = self._allowed()
        while self._workers < self._room:
            pause_s = self.live.pace_s(self.tally.requests_per_s)
            if pause_s > 0:
                self._loop.call_later(pause_s, self._wake.set)
                break
            taken = self._take()
            if taken is None:
                self._is_held_back = False
                return
            self._workers += 1
            self._group.create_task(self._work(*taken), name=f"feed {self.replica.name}")
        self._is_held_back = self.lanes.has_unsent

    async def _work(self, lane: Lane[OpenTurn], job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        try:
            if not lane.is_open:
                # It was closed between the taking and this: the turn's files may be closed too.
                self._land(lane, job)
                leave_gate(job.passage, None)
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
        suspects = self._losses.suspects
        taken = suspects.take(self.in_flight) if suspects else self.lanes.take(self._gate)
        if taken is not None:
            # Counted from here on, so that nobody takes the replica's memory before the worker begins.
            self.in_flight += 1
        return taken

    def _land(self, lane: Lane[OpenTurn], job: Job) -> None:
        self.in_flight -= 1
        self._losses.suspects.note_back(lane, job.line)

    async def _send(self, lane: Lane[OpenTurn], job: Job, task: "asyncio.Task[None]") -> None:
        turn, replica, preemption = lane.turn, self.replica, self.live.preemption
        passage = job.passage
        reply: Reply | None = None
        turn.depart(task)
        try:
            started_s = self._loop.time()
            request = turn.read_body(job.line) if turn.is_near else await turn.fetch_body(job.line)
            body = lane.body_for(replica, request)
            send = replica.send if lane.media is None else lane.media.make_sender(replica, job.line)
            sending = send(turn.endpoint, body, None if passage is None else passage.note_first_token)
            reply = await (preemption.follow(sending, task, lane, job.line) if preemption.is_possible else sending)
            self._settle(lane, job.line, reply, started_s, self._loop.time())
            if job.line in turn.twins and not isinstance(reply, Lost):
                self.tally.reused += await turn.answer_twins(lane, job.line, reply)
        except NotSent:
            pass
        except Exception as error:  # noqa: BLE001 - the input cannot be read now, or a fault of our own
            # That ends the turn, which is tried again, and nobody else's work.
            turn.fail(error)
        except asyncio.CancelledError:
            # Its place was needed, or the batch was stopped while the worker goes on; a worker that is ended itself
            # finds its lane open.
            if preemption.leave(task):
                self.tally.preempted += 1
                lane.put_back(job.line)
            elif lane.is_open:
                raise
            task.uncancel()
        finally:
            self._land(lane, job)
            turn.land(task)
            if passage is not None:
                leave_gate(passage, reply)
        if turn.is_behind:
            await turn.wait_for_disk()
            # Another replica may have the memory by now, or this one a pause.
            self._room = self._allowed()

    def _settle(self, lane: Lane[OpenTurn], line: int, reply: Reply, started_s: float, now_s: float) -> None:
        if isinstance(reply, Lost):
            self._note_replies()
            self._losses.note(
                *(lane, line, reply, started_s, now_s),
                in_flight=self.in_flight,
                lanes=self.lanes,
                controller=self._controller,
            )
            self._room = self._allowed()
            return
        if isinstance(reply, Answered):
            outcome, usage = Outcome.ANSWERED, reply.usage
        else:
            outcome, usage = Outcome.REFUSED, _NO_USAGE
        lane.turn.record(line, outcome, reply.status, usage, now_s - started_s, reply.body)
        if self.lanes.only is None and outcome is Outcome.ANSWERED:
            self.lanes.note_usage(lane, line, usage)
        if not self._replied:
            self._loop.call_soon(self._note_replies)
        self._replied.append((started_s, now_s, usage))

    def _note_replies(self) -> None:
        """Learn from all that came in this turn of the event loop."""
        if not self._replied:
            return
        replies, self._replied = Replies(self._replied), []
        self._losses.replied_at_s = replies.last_s
        self.hindrance.note_reply()
        self._breaker.note_reply(max(replies.started_s))
        self.tally.add(replies)
        controller = self._controller
        limit = controller.limit
        controller.note_replies(replies)
        if controller.limit > limit:
            self._wake.set()
