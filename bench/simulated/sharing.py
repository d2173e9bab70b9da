"""Whole files fed to one or two simulated replicas: what they do together, and what is left when one of them fails."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backfill.batch import Outcome
from backfill.engines import CacheHabit, ReplicaLimits
from bench.simulated.clock import run_virtual
from bench.simulated.engine import EngineSettings, SimulatedEngine
from bench.simulated.faults import FaultyReplica
from bench.simulated.feeding import SimulatedFeeder, feeding
from bench.simulated.turn import Ended, Lines, SimulatedTurn

__all__ = ["FAST", "SLOW", "Fed", "feed_file", "filling", "leading", "outage", "sharing", "slow_down", "storm"]

_TICK_S = 0.25


def slow_down(settings: EngineSettings, factor: float) -> EngineSettings:
    """The same engine on a machine that takes `factor` times as long."""
    return replace(
        settings,
        prefill_tokens_per_s=settings.prefill_tokens_per_s / factor,
        step_base_s=settings.step_base_s * factor,
        step_per_sequence_s=settings.step_per_sequence_s * factor,
    )


FAST = EngineSettings(slots=64, prefix_cache_tokens=400_000)
SLOW = slow_down(FAST, 4.0)


@dataclass(slots=True)
class Fed:
    """What came of a file."""

    duration_s: float
    ended: list[Ended]
    in_flight: list[tuple[float, tuple[int, ...]]]
    """At each tick: the time, and the requests with each replica."""
    answered: tuple[int, ...]
    """By each replica."""
    errors: int

    @property
    def is_whole(self) -> bool:
        """Whether each line was recorded just once."""
        return sorted(one.line for one in self.ended) == list(range(len(self.ended)))

    @property
    def given_up(self) -> int:
        """Lines that were lost at their last try."""
        return sum(one.outcome is Outcome.EXHAUSTED for one in self.ended)

    @property
    def tries_burnt(self) -> int:
        """Tries that were counted and gave no answer."""
        return sum(one.tries - 1 for one in self.ended)

    @property
    def cached_share(self) -> float:
        """Of all lines, those whose prefix an engine found in its cache."""
        return sum(one.cached_tokens > 0 for one in self.ended) / len(self.ended)

    @property
    def tokens_per_s(self) -> float:
        """Of the answers, over the whole run."""
        return sum(one.tokens for one in self.ended) / self.duration_s

    def mean_in_flight(self, replica: int, from_s: float, until_s: float) -> float:
        """Requests with that replica."""
        seen = [counts[replica] for now_s, counts in self.in_flight if from_s <= now_s < until_s]
        return sum(seen) / max(1, len(seen))


def feed_file(  # noqa: PLR0913 - each is one thing that a case sets
    engines: Sequence[EngineSettings],
    lines: Lines,
    count: int,
    *,
    habit: CacheHabit = CacheHabit.NONE,
    by_prefix: bool = True,
    serves_gauges: bool = True,
    ceiling: int = 1_024,
    script: Callable[[Sequence[FaultyReplica]], None] = lambda _: None,
) -> Fed:
    """Feed `count` lines until each has its outcome; `script` may set timers that do something to the replicas."""

    async def drive() -> Fed:
        limits = ReplicaLimits(ceiling, frozenset({lines.endpoint}))
        replicas = [
            FaultyReplica(
                f"replica {number}",
                SimulatedEngine(settings, lines.seed),
                limits,
                cache_habit=habit,
                serves_gauges=serves_gauges,
            )
            for number, settings in enumerate(engines)
        ]
        feeders = [SimulatedFeeder(one, 100 * lines.seed + number) for number, one in enumerate(replicas)]
        turn = SimulatedTurn(lines, lines.plan(count, by_prefix=by_prefix))
        script(replicas)
        history: list[tuple[float, tuple[int, ...]]] = []
        async with feeding(*feeders):
            turn.offer_to(feeders)
            while not turn.over.is_set():
                await asyncio.sleep(_TICK_S)
                history.append((asyncio.get_running_loop().time(), tuple(feeder.in_flight for feeder in feeders)))
        duration_s = max(one.now_s for one in turn.ended)
        answered = tuple(one.engine.counters.answered for one in replicas)
        return Fed(duration_s, turn.ended, history, answered, sum(one.errors for one in replicas))

    return run_virtual(drive())


def sharing(lines: Lines, count: int, *, habit: CacheHabit = CacheHabit.NONE) -> tuple[float, Fed, Fed]:
    """Throughput of a fast and a slow replica over the sum of each alone; what both did, and the fast one alone."""
    both = feed_file((FAST, SLOW), lines, count, habit=habit)
    fast, slow = (feed_file((engine,), lines, count, habit=habit) for engine in (FAST, SLOW))
    return both.tokens_per_s / (fast.tokens_per_s + slow.tokens_per_s), both, fast


def outage(seed: int, count: int = 6_000) -> Fed:
    """Two equal replicas, of which the second is dead from 60 to 120 s."""

    def script(replicas: Sequence[FaultyReplica]) -> None:
        asyncio.get_running_loop().call_later(60.0, replicas[1].die)
        asyncio.get_running_loop().call_later(120.0, replicas[1].revive)

    return feed_file((FAST, FAST), Lines(seed=seed), count, script=script)


def storm(seed: int, count: int = 6_000) -> Fed:
    """Two equal replicas, of which the second answers 500 to everything from 60 to 120 s."""

    def script(replicas: Sequence[FaultyReplica]) -> None:
        asyncio.get_running_loop().call_later(60.0, setattr, replicas[1], "is_broken", True)
        asyncio.get_running_loop().call_later(120.0, setattr, replicas[1], "is_broken", False)

    return feed_file((FAST, FAST), Lines(seed=seed), count, script=script)


def filling(seed: int, *, serves_gauges: bool) -> tuple[float, float, Fed]:
    """50,000 lines for room for 2,000 at 2 s: when 95 % are in flight, and the least share until the last 2,000."""
    room, count = 2_000, 50_000
    engine = EngineSettings(slots=room, latency_s=2.0)
    lines = Lines(prompt_tokens=8, seed=seed)
    fed = feed_file((engine,), lines, count, ceiling=room, serves_gauges=serves_gauges)
    full_at_s = next(now_s for now_s, (one,) in fed.in_flight if one >= 0.95 * room)
    last_s = fed.ended[count - room - 1].now_s - 2.0
    least = min(one for now_s, (one,) in fed.in_flight if full_at_s <= now_s < last_s)
    return full_at_s, least / room, fed


def leading(prefixes: int, count: int = 256, *, by_prefix: bool, seed: int = 0) -> Fed:
    """Lines that share beginnings of 2,048 tokens, on an engine where requests let in together compute each their own.

    Without `by_prefix` they go in file order, the prefixes in turn, and nobody waits for anybody.
    """
    engine = EngineSettings(slots=64, prefill_tokens_per_s=4_000.0, prefix_cache_tokens=400_000)
    lines = Lines(40, 60, prefixes=prefixes, prefix_tokens=2_048, seed=seed)
    habit = CacheHabit.PREFIX_LEADER if by_prefix else CacheHabit.NONE
    return feed_file((engine,), lines, count, habit=habit, by_prefix=by_prefix)


def count_tries(fed: Fed) -> dict[int, int]:
    """Tries -> lines that took so many."""
    return dict(Counter(one.tries for one in fed.ended))
