"""Drives a simulated engine in a closed loop, as many requests in flight as a limit allows. Never short of lines."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from backfill.dispatch.concurrency import ConcurrencyController
from backfill.engines import Gauges
from backfill.engines.gauges import parse_gauges
from backfill.status import Bottleneck
from bench.simulated_engine import SimulatedEngine, SimulatedReply, SimulatedRequest

__all__ = ["FixedLimit", "Limit", "Moment", "Run", "feed"]

_TICK_S = 0.25
_GAUGES_S = 1.0
_BACKOFF_S = 0.5
_BACKOFF_MAX_S = 30.0


class Limit(Protocol):
    """What decides how many are in flight: `ConcurrencyController`, or a number."""

    limit: int
    bottleneck: Bottleneck

    def note_reply(self, now_s: float, duration_s: float, completion_tokens: int) -> None:
        """As the controller's."""

    def note_rejection(self, now_s: float) -> None:
        """As the controller's."""

    def tick(self, now_s: float, in_flight: int, gauges: Gauges, *, has_work: bool) -> None:
        """As the controller's."""


class FixedLimit(ConcurrencyController):
    """A configured number."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, limit)

    def note_reply(self, now_s: float, duration_s: float, completion_tokens: int) -> None:
        """Change nothing."""

    def note_rejection(self, now_s: float) -> None:
        """Change nothing."""

    def tick(self, now_s: float, in_flight: int, gauges: Gauges, *, has_work: bool) -> None:
        """Change nothing."""


class Moment(NamedTuple):
    """What was seen at one tick."""

    now_s: float
    limit: int
    in_flight: int
    queued: int
    """In the engine."""
    bottleneck: Bottleneck


@dataclass(slots=True)
class Run:
    """What came of it."""

    answered: int = 0
    rejected: int = 0
    ended: list[tuple[float, float]] = field(default_factory=list)
    """When each answer came, and its tokens (1 where it has none)."""
    history: list[Moment] = field(default_factory=list)

    def work(self, from_s: float, until_s: float) -> float:
        """Tokens, or answers where they have none, of the answers in that time."""
        return sum(work for ended_s, work in self.ended if from_s <= ended_s < until_s)

    def mean_queued(self, from_s: float, until_s: float) -> float:
        """Requests that waited in the engine, on average over that time's ticks."""
        return _mean([one.queued for one in self.history if from_s <= one.now_s < until_s])

    def mean_limit(self, from_s: float, until_s: float) -> float:
        """The limit, on average over that time's ticks."""
        return _mean([one.limit for one in self.history if from_s <= one.now_s < until_s])


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))


class _Feeder:
    """Obeys Retry-After for all, and backs a rejected line off where there is none, while others are sent."""

    def __init__(self, limit: Limit, engine: SimulatedEngine, draw: Callable[[], SimulatedRequest], seed: int) -> None:
        self.run = Run()
        self._limit = limit
        self._engine = engine
        self._draw = draw
        self._dice = random.Random(seed)
        self._again: deque[tuple[SimulatedRequest, int]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused_until_s = 0.0

    def fill(self) -> None:
        """Send until as many are in flight as the limit allows."""
        loop = asyncio.get_running_loop()
        while len(self._tasks) < self._limit.limit and loop.time() >= self._paused_until_s:
            request, rejections = self._again.popleft() if self._again else (self._draw(), 0)
            task = loop.create_task(self._send(request, rejections))
            self._tasks.add(task)
            task.add_done_callback(self._land)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self.fill()

    async def _send(self, request: SimulatedRequest, rejections: int) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        reply = await self._engine.serve(request)
        now_s = loop.time()
        if reply.status == 200:
            self.run.answered += 1
            self.run.ended.append((now_s, reply.completion_tokens or 1))
            self._limit.note_reply(now_s, now_s - started_s, reply.completion_tokens)
        else:
            self.run.rejected += 1
            self._limit.note_rejection(now_s)
            self._back_off(reply, request, rejections + 1)

    def _back_off(self, reply: SimulatedReply, request: SimulatedRequest, rejections: int) -> None:
        loop = asyncio.get_running_loop()
        if reply.retry_after_s is not None:
            self._paused_until_s = max(self._paused_until_s, loop.time() + reply.retry_after_s)
            loop.call_at(self._paused_until_s, self.fill)
            self._again.append((request, rejections))
            return
        ceiling_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** (rejections - 1))
        loop.call_later(self._dice.uniform(ceiling_s / 2, ceiling_s), self._again.append, (request, rejections))

    async def feed(self, duration_s: float, *, gauges: str | None) -> None:
        """Feed for so long."""
        loop = asyncio.get_running_loop()
        end_s, read_at_s, read = loop.time() + duration_s, 0.0, Gauges()
        while loop.time() < end_s:
            self.fill()
            await asyncio.sleep(_TICK_S)
            now_s, in_flight = loop.time(), len(self._tasks)
            if gauges is not None and now_s - read_at_s >= _GAUGES_S:
                read_at_s, read = now_s, parse_gauges(self._engine.metrics_text(gauges))
            if in_flight:
                self._limit.tick(now_s, in_flight, read, has_work=True)
            limit = self._limit
            self.run.history.append(Moment(now_s, limit.limit, in_flight, self._engine.queued, limit.bottleneck))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def feed(  # noqa: PLR0913 - each is one thing that a case sets
    limit: Limit,
    engine: SimulatedEngine,
    draw: Callable[[], SimulatedRequest],
    duration_s: float,
    *,
    gauges: str | None = None,
    seed: int = 0,
    half_way: Callable[[], None] | None = None,
) -> Run:
    """Feed the engine for `duration_s`; `gauges` names the flavour of metrics that are read each second, None: none."""
    if half_way is not None:
        asyncio.get_running_loop().call_later(duration_s / 2, half_way)
    feeder = _Feeder(limit, engine, draw, seed)
    await feeder.feed(duration_s, gauges=gauges)
    return feeder.run
