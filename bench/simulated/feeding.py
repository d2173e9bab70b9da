"""Drives a simulated engine with the dispatcher's own feeder, which never runs short of lines."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from backfill.batch import Outcome
from backfill.config import DispatchConfig
from backfill.dispatch.concurrency import ConcurrencyController
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.replies import Replies
from backfill.engines import Gauges, Replica
from backfill.status import Bottleneck
from bench.simulated.replica import SimulatedReplica
from bench.simulated.turn import Ended, Lines, SimulatedTurn

__all__ = ["FixedLimit", "Moment", "Run", "SimulatedFeeder", "feed", "feeding"]

_TICK_S = 0.25
_ENDLESS = 1_000_000
"""Lines: more than any run here sends."""


class FixedLimit(ConcurrencyController):
    """A configured number."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, limit)

    def note_replies(self, replies: Replies) -> None:
        """Change nothing."""

    def note_rejection(self, now_s: float) -> None:
        """Change nothing."""

    def tick(self, now_s: float, in_flight: int, gauges: Gauges, *, has_work: bool, is_shared: bool = False) -> None:
        """Change nothing."""


class SimulatedFeeder(Feeder):
    """The dispatcher's feeder with dice that fall the same way each time, and the controller that a case wants."""

    def __init__(self, replica: Replica, seed: int = 0, controller: ConcurrencyController | None = None) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(replica, DispatchConfig(), random.Random(seed), clock_ms=lambda: round(1000 * loop.time()))
        self._controller = controller or self._controller

    @property
    def controller(self) -> ConcurrencyController:
        """What sets its limit."""
        return self._controller


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

    rejected: int = 0
    """Requests that were answered 429 or 503."""
    ended: list[Ended] = field(default_factory=list)
    history: list[Moment] = field(default_factory=list)

    @property
    def given_up(self) -> int:
        """Lines that were lost at their last try."""
        return sum(one.outcome is Outcome.EXHAUSTED for one in self.ended)

    def work(self, from_s: float, until_s: float) -> float:
        """Tokens, or answers where they have none, of the answers in that time."""
        ended = (one for one in self.ended if one.outcome is Outcome.ANSWERED and from_s <= one.now_s < until_s)
        return sum(one.tokens or 1 for one in ended)

    def mean_queued(self, from_s: float, until_s: float) -> float:
        """Requests that waited in the engine, on average over that time's ticks."""
        return _mean([one.queued for one in self.history if from_s <= one.now_s < until_s])

    def mean_limit(self, from_s: float, until_s: float) -> float:
        """The limit, on average over that time's ticks."""
        return _mean([one.limit for one in self.history if from_s <= one.now_s < until_s])


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))


@asynccontextmanager
async def feeding(*feeders: Feeder) -> AsyncIterator[None]:
    """Have the feeders run; what one of them raises is raised at the end."""
    tasks = [asyncio.create_task(feeder.run()) for feeder in feeders]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def feed(
    controller: ConcurrencyController,
    replica: SimulatedReplica,
    lines: Lines,
    duration_s: float,
    half_way: Callable[[], None] | None = None,
) -> Run:
    """Feed the replica for `duration_s`, as many at once as the controller says."""
    loop = asyncio.get_running_loop()
    if half_way is not None:
        loop.call_later(duration_s / 2, half_way)
    turn = SimulatedTurn(lines, lines.plan(_ENDLESS))
    feeder = SimulatedFeeder(replica, lines.seed, controller)
    run = Run(ended=turn.ended)
    end_s = loop.time() + duration_s
    async with feeding(feeder):
        turn.offer_to([feeder])
        while loop.time() < end_s:
            await asyncio.sleep(_TICK_S)
            queued = replica.engine.queued
            run.history.append(Moment(loop.time(), controller.limit, feeder.in_flight, queued, controller.bottleneck))
    run.rejected = replica.engine.counters.rejected
    return run
