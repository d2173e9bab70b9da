"""Batches with random deadlines at 90 % load: how many are missed, and how many any order would have missed.

The simulated engine on a virtual clock, fed by the dispatcher's own feeder, which chooses whose line goes next. It is
held against a bound that no order can beat, not even one that knows all that is to come: of the batches that come and
are due within a stretch of time, those that do not fit into it are missed, the largest first, so that they are as few
as possible; the bound is the sum over the stretches, without overlaps, for which it is greatest. That every batch fills
the engine from its first line to its last is assumed for the bound and not for the run. `find_misses` also gives an
order that could be had (earliest deadline first without the largest of what does not fit): the truth lies between.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

from backfill.engines import ReplicaLimits
from bench.findings import Findings, Setting, tell
from bench.simulated.clock import run_virtual
from bench.simulated.engine import EngineSettings, SimulatedEngine
from bench.simulated.feeding import SimulatedFeeder, feeding
from bench.simulated.replica import SimulatedReplica
from bench.simulated.turn import Lines, SimulatedTurn

__all__ = ["Job", "bound_misses", "draw_jobs", "find_misses", "measure_deadlines", "run_jobs"]

_BATCHES = 200
_LOAD = 0.9
_REPEATS = 3
_OWNERS = 10
_SLOTS = 8
_ENGINE = EngineSettings(slots=_SLOTS)
_LINES = Lines(prompt_tokens=50, completion_tokens=60, spread=0.3)


class Job(NamedTuple):
    """A batch: when it comes, how much of the engine's time it needs, and until when."""

    comes_s: float
    work_s: float
    due_s: float
    lines: int


def measure_deadlines(setting: Setting, findings: Findings) -> None:
    """Other batches in each run."""
    count = setting.scale(_BATCHES)
    lines_per_s = _measure_lines_per_s()
    for seed in range(setting.count_repeats(_REPEATS)):
        jobs = draw_jobs(count, lines_per_s, seed)
        missed = run_jobs(jobs, seed)
        bound, found = bound_misses(jobs), find_misses(jobs)
        # One more on both sides, so that nothing is divided by zero where nothing has to be missed.
        findings.add(deadline_misses_ratio=(missed + 1) / (bound + 1), deadline_misses=missed)
        findings.add(deadline_misses_bound=bound, deadline_misses_of_an_offline_order=found)
        tell(f"deadlines, run {seed + 1}: {missed} of {count} missed; any order at least {bound}, one offline {found}")


def draw_jobs(count: int, lines_per_s: float, seed: int) -> list[Job]:
    """Batches of 50 to 1,500 lines that come at random; their windows are as wide apart as 15 minutes and 72 hours.

    All times are a fifteenth of what they might be: windows are from one minute to 288, but nobody gives a batch less
    than a fourth more than it needs alone.
    """
    dice = random.Random(seed)
    jobs: list[Job] = []
    now_s = 0.0
    for _ in range(count):
        lines = round(50 * 30 ** dice.random())
        work_s = lines / lines_per_s
        window_s = max(60.0 * 288 ** dice.random(), 1.25 * work_s + 5.0)
        jobs.append(Job(now_s, work_s, now_s + window_s, lines))
        now_s += dice.expovariate(1.0) * _MEAN_LINES / lines_per_s / _LOAD
    return jobs


# Of 50 * 30 ** x for x from 0 to 1.
_MEAN_LINES = 50 * 29 / 3.4012


def run_jobs(jobs: Sequence[Job], seed: int) -> int:
    """How many miss their deadlines with the dispatcher's feeder."""
    return run_virtual(_run_jobs(jobs, seed))


async def _run_jobs(jobs: Sequence[Job], seed: int) -> int:
    loop = asyncio.get_running_loop()
    dice = random.Random(seed + 1)
    feeder = _make_feeder(seed)
    # Before the first batch comes, the engine is busy for a while: how fast it is, is known.
    head_start_s = 120.0

    async def run_job(number: int, job: Job) -> bool:
        await asyncio.sleep(head_start_s + job.comes_s)
        due_at_s = head_start_s + job.due_s
        turn = SimulatedTurn(
            _LINES,
            _LINES.plan(job.lines),
            id=f"batch-{number}",
            owner=f"owner-{dice.randrange(_OWNERS)}",
            created_at_ms=round(1000 * loop.time()),
            deadline_at_ms=round(1000 * due_at_s),
        )
        lane = turn.offer_to([feeder])
        try:
            async with asyncio.timeout_at(due_at_s):
                await turn.over.wait()
        except TimeoutError:
            lane.close()
        feeder.withdraw(lane)
        return turn.over.is_set()

    async with feeding(feeder):
        warm = SimulatedTurn(_LINES, _LINES.plan(1_000_000)).offer_to([feeder])
        loop.call_later(head_start_s - 10.0, warm.close)
        loop.call_later(head_start_s - 1.0, feeder.withdraw, warm)
        met = await asyncio.gather(*(run_job(number, job) for number, job in enumerate(jobs)))
    return met.count(False)


def _make_feeder(seed: int) -> SimulatedFeeder:
    limits = ReplicaLimits(_SLOTS, frozenset({_LINES.endpoint}), first_concurrency=_SLOTS)
    return SimulatedFeeder(SimulatedReplica("simulated", SimulatedEngine(_ENGINE, seed), limits), seed)


def _measure_lines_per_s() -> float:
    """What the engine does while it has always enough to do."""

    async def run() -> float:
        feeder = _make_feeder(0)
        turn = SimulatedTurn(_LINES, _LINES.plan(1_000_000))
        async with feeding(feeder):
            turn.offer_to([feeder])
            await asyncio.sleep(300.0)
        return sum(one.now_s >= 60.0 for one in turn.ended) / 240.0

    return run_virtual(run())


def bound_misses(jobs: Sequence[Job]) -> int:
    """So many deadlines at least are missed in any order."""
    ends = sorted({job.due_s for job in jobs})
    best = [0] * (len(ends) + 1)
    """Position in `ends` -> the bound of all that is due before it."""
    for place, end_s in enumerate(ends):
        best[place + 1] = best[place]
        for start_s in {job.comes_s for job in jobs if job.comes_s < end_s}:
            inside = sorted(job.work_s for job in jobs if job.comes_s >= start_s and job.due_s <= end_s)
            surplus_s, missed = sum(inside) - (end_s - start_s), 0
            while surplus_s > 1e-9:
                surplus_s -= inside.pop()
                missed += 1
            if missed:
                before = sum(one <= start_s for one in ends)
                best[place + 1] = max(best[place + 1], best[before] + missed)
    return best[-1]


def find_misses(jobs: Sequence[Job]) -> int:
    """How many are missed by an order that could be had if all were known before."""
    kept = list(jobs)
    while (late := _find_late(kept)) is not None:
        # The engine was never idle since the start of this stretch, and did nothing that is due later.
        end_s = late.due_s
        stretches = [
            (sum(one.work_s for one in inside) - (end_s - start_s), inside)
            for start_s in {job.comes_s for job in kept if job.comes_s <= late.comes_s}
            for inside in [[job for job in kept if job.comes_s >= start_s and job.due_s <= end_s]]
        ]
        _, inside = max(stretches, key=lambda stretch: stretch[0])
        kept.remove(max(inside, key=lambda job: job.work_s))
    return len(jobs) - len(kept)


def _find_late(jobs: Sequence[Job]) -> Job | None:
    """The first that is not done in time if the earliest deadline always goes first."""
    left = {number: job.work_s for number, job in enumerate(jobs)}
    comings = sorted({job.comes_s for job in jobs})
    now_s = comings[0] if comings else 0.0
    while left:
        here = [number for number in left if jobs[number].comes_s <= now_s]
        coming_s = next((one for one in comings if one > now_s), float("inf"))
        if not here:
            now_s = coming_s
            continue
        first = min(here, key=lambda number: jobs[number].due_s)
        done_s = min(left[first], coming_s - now_s)
        now_s += done_s
        left[first] -= done_s
        if left[first] <= 1e-9:
            del left[first]
            if now_s > jobs[first].due_s + 1e-9:
                return jobs[first]
    return None
