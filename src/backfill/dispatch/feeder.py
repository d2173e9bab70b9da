"""Keeps one replica as full as it can take, with lines of whichever batches have some for it."""

import asyncio
import random
from contextlib import suppress

import msgspec
import structlog

from backfill.batch import Outcome, Usage
from backfill.config import DispatchConfig
from backfill.dispatch.open_turn import Lane
from backfill.dispatch.retry import choose_delay_s
from backfill.engines import Answered, Lost, LostReason, Refused, Replica, Reply
from backfill.errors import EngineUnavailable

__all__ = ["Feeder"]

_log = structlog.get_logger(__name__)


class Feeder:
    """As many workers as the replica takes requests; each takes a line, sends it and records what came back."""

    def __init__(self, replica: Replica, policy: DispatchConfig, dice: random.Random) -> None:
        self.replica = replica
        self.trouble: str | None = None
        """Why nothing is sent now; None if all is well."""
        self.in_flight = 0
        """Requests that are with the replica now."""
        self._policy = policy
        self._dice = dice
        self._lanes: list[Lane] = []
        self._more = asyncio.Event()
        self._starting = asyncio.Lock()
        self._paused_until = 0.0
        self._setbacks = 0

    def offer(self, lane: Lane) -> None:
        """Take a lane's lines; those of the earliest deadline go first."""
        self._lanes.append(lane)
        self._lanes.sort(key=_urgency)
        lane.subscribe(self._more.set)
        self._more.set()

    def withdraw(self, lane: Lane) -> None:
        """Forget a lane."""
        with suppress(ValueError):
            self._lanes.remove(lane)

    async def run(self) -> None:
        """Feed until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.replica.limits.concurrency):
                group.create_task(self._work(), name=f"feed {self.replica.name} {number}")

    async def _work(self) -> None:
        while True:
            await self._more.wait()
            await self._await_replica()
            job = self._take()
            if job is None:
                self._more.clear()
            else:
                await self._send(*job)

    def _take(self) -> tuple[Lane, int] | None:
        for lane in self._lanes:
            line = lane.take()
            if line is not None:
                return lane, line
        return None

    async def _await_replica(self) -> None:
        """Return once the replica is up and has not asked for a pause; start it if need be."""
        loop = asyncio.get_running_loop()
        while True:
            pause_s = self._paused_until - loop.time()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            elif self.replica.address is not None:
                return
            else:
                await self._start_replica()

    async def _start_replica(self) -> None:
        async with self._starting:
            loop = asyncio.get_running_loop()
            if self.replica.address is not None or self._paused_until > loop.time():
                return
            self.trouble = self.trouble or "starting"
            try:
                await self.replica.start()
            except EngineUnavailable as error:
                self._set_back(error.message)
            else:
                self._note_trouble(None)

    def _set_back(self, reason: str) -> None:
        """Wait before the replica is tried again, longer each time until it answers a request."""
        loop = asyncio.get_running_loop()
        self._setbacks += 1
        # 2.0 ** 1024 overflows; the ceiling is reached long before.
        doublings = min(self._setbacks - 1, 64)
        ceiling_s = min(self._policy.backoff_max_s, self._policy.backoff_s * 2.0**doublings)
        self._paused_until = max(self._paused_until, loop.time() + self._dice.uniform(ceiling_s / 2, ceiling_s))
        self._note_trouble(reason)

    def _note_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            _log.warning("engine unavailable, waiting", engine=self.replica.name, reason=trouble)
        elif trouble is None and self.trouble not in (None, "starting"):
            _log.info("engine available again", engine=self.replica.name)
        self.trouble = trouble

    async def _send(self, lane: Lane, line: int) -> None:
        turn, replica = lane.turn, self.replica
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        loop = asyncio.get_running_loop()
        turn.depart(task)
        self.in_flight += 1
        try:
            started = loop.time()
            body = lane.body_for(replica, turn.read_body(line))
            reply = await replica.send(turn.turn.batch.endpoint, body)
            self._settle(lane, line, reply, loop.time() - started)
        except asyncio.CancelledError:
            # The batch was stopped while the worker goes on; a worker that is ended itself finds its lane open.
            if lane.is_open:
                raise
            task.uncancel()
        finally:
            self.in_flight -= 1
            turn.land(task)
        await turn.wait_for_disk()

    def _settle(self, lane: Lane, line: int, reply: Reply, duration_s: float) -> None:
        turn = lane.turn
        if not (isinstance(reply, Lost) and reply.never_sent):
            self._setbacks = 0
        match reply:
            case Answered():
                turn.record(line, Outcome.ANSWERED, reply.status, reply.usage, duration_s, reply.body)
            case Refused():
                turn.record(line, Outcome.REFUSED, reply.status, Usage(), duration_s, reply.body)
            case Lost():
                self._try_again(lane, line, reply, duration_s)

    def _try_again(self, lane: Lane, line: int, lost: Lost, duration_s: float) -> None:
        turn = lane.turn
        if lost.never_sent:
            # The engine failed, not the line: it costs no try. Of many that find out together the first counts.
            lane.put_back(line)
            if self._paused_until <= asyncio.get_running_loop().time():
                self._set_back(lost.message)
            return
        tries = turn.tries.get(line, 0) + 1
        if tries >= self._policy.tries:
            turn.tries[line] = tries - 1
            turn.record(line, Outcome.EXHAUSTED, lost.status or 0, Usage(), duration_s, _render_loss(lost, tries))
            return
        turn.tries[line] = tries
        loop = asyncio.get_running_loop()
        delay_s = choose_delay_s(self._policy, lost, tries, self._dice)
        if lost.reason is LostReason.RATE_LIMITED and lost.retry_after_s is not None:
            asked_s = min(lost.retry_after_s, self._policy.retry_after_max_s)
            self._paused_until = max(self._paused_until, loop.time() + asked_s)
        loop.call_later(delay_s, lane.put_back, line)


def _urgency(lane: Lane) -> tuple[int, int, str]:
    batch = lane.turn.turn.batch
    return batch.deadline_at_ms, batch.created_at_ms, batch.id


def _render_loss(lost: Lost, tries: int) -> bytes:
    message = f"{lost.message} (given up after {tries} tries)" if tries > 1 else lost.message
    return msgspec.json.encode({"error": {"message": message, "type": "server_error", "code": lost.reason.value}})
