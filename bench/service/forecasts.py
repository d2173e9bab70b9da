"""How far off forecasts are: mixed batches of several owners on a simulated engine, asked about at half time.

Batches come one after the other while others run, so that a part of the error is what nobody could know: who comes
later. Of half of them it is known how long answers may get; for the others each is guessed alike, as intake does where
a request sets no limit.
"""

import asyncio
import random
from array import array
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

import msgspec

from backfill.batch import Batch, Outcome, Usage
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.weighing import Claim, make_jobs
from backfill.dispatch.work_left import Ratios, WorkLeft
from backfill.index import DEFAULT_ANSWER_TOKENS
from backfill.plan import Need, forecast
from backfill.store import QueuedBatch
from backfill.turns import Turn
from bench.findings import Findings, Setting, tell
from bench.simulated.clock import run_virtual
from bench.simulated.engine import EngineSettings, SimulatedEngine
from bench.simulated.feeding import SimulatedFeeder, feeding
from bench.simulated.replica import SimulatedReplica
from bench.simulated.turn import Lines, SimulatedTurn

__all__ = ["Forecasted", "measure_forecasts", "run_batches"]

_BATCHES = 20
_OWNERS = 4
_LINES = (200, 6_000)
_GAP_S = 30.0
_LOOK_S = 2.0
_KINDS = (
    Lines(prompt_tokens=300, completion_tokens=200),
    Lines(prompt_tokens=2_000, completion_tokens=40, spread=0.4),
    Lines(prompt_tokens=100, completion_tokens=600, spread=0.3),
    Lines(prompt_tokens=800, completion_tokens=120, spread=1.0),
)
_POOL = frozenset({"engine"})


@dataclass
class Forecasted:
    """One batch: when it came and was done, and what was said of it meanwhile."""

    came_s: float
    done_s: float = 0.0
    said: list[tuple[float, float]] = field(default_factory=list)
    """When it was asked for, and when the batch would be done."""

    @property
    def error(self) -> float | None:
        """At half time, |forecast - truth| as a share of all the time that it took; None if nothing was said by then.

        Of the time that was then left it is twice that share.
        """
        half_s = (self.came_s + self.done_s) / 2
        by_then = [done_s for now_s, done_s in self.said if now_s <= half_s]
        return abs(by_then[-1] - self.done_s) / (self.done_s - self.came_s) if by_then else None


class _Turn(SimulatedTurn):
    """A batch whose lines are guessed as intake guesses them."""

    def __init__(self, lines: Lines, count: int, owner: str, number: int, *, knows_answers: bool) -> None:
        super().__init__(lines, lines.plan(count))
        batch = msgspec.structs.replace(self.turn.batch, id=f"batch-{number}", owner=owner, created_at_ms=number)
        self.turn = Turn(batch, 1)
        self._guesses = [_guess(lines.make_body(line), knows_answers=knows_answers) for line in range(count)]
        prompts = sum(prompt for prompt, _ in self._guesses)
        answers = sum(answer for _, answer in self._guesses)
        self.tokens_per_line = (prompts + answers) / count
        columns = {
            "models": array("I", [0]) * count,
            "answer_tokens": array("I", [answer for _, answer in self._guesses]),
            "token_estimates": array("I", [sum(guess) for guess in self._guesses]),
        }
        self.work_left = WorkLeft(cast("Any", type("Index", (), columns)), {0: Need(prompts, answers)})
        self.work_left.set_pool(0, _POOL)

    def estimate_tokens(self, line: int) -> int:
        """What a line is taken to need."""
        return sum(self._guesses[line])

    def record(  # noqa: PLR0913 - the fields of a record
        self,
        line: int,
        outcome: Outcome,
        status: int,
        usage: Usage,
        duration_s: float,
        body: bytes,
        *,
        reused: bool = False,
    ) -> None:
        """Note what became of a line."""
        super().record(line, outcome, status, usage, duration_s, body, reused=reused)
        self.work_left.note(line, usage)


def measure_forecasts(setting: Setting, findings: Findings) -> None:
    """The error of the median batch."""
    share = setting.scale(10_000) / 10_000
    for repeat in range(setting.count_repeats(3)):
        errors = sorted(error for one in run_batches(repeat, share) if (error := one.error) is not None)
        if errors:
            tell(f"forecasts: error at half time from {errors[0]:.3f} to {errors[-1]:.3f}, median {median(errors):.3f}")
            findings.add(forecast_error=median(errors))


def run_batches(seed: int, share: float = 1.0) -> list[Forecasted]:
    """All batches, from the first one's coming to the last one's end; `share` of the lines that they have."""
    return run_virtual(_run(seed, share))


async def _run(seed: int, share: float) -> list[Forecasted]:
    dice = random.Random(seed)
    replica = SimulatedReplica("engine", SimulatedEngine(EngineSettings(), seed))
    feeder = SimulatedFeeder(replica, seed)
    found: list[Forecasted] = []
    open_turns: dict[_Turn, Forecasted] = {}
    async with feeding(feeder):
        looking = asyncio.create_task(_look(feeder, open_turns))
        async with asyncio.TaskGroup() as group:
            for number in range(_BATCHES):
                low, high = _LINES
                count = max(20, round(share * low * (high / low) ** dice.random()))
                kind = dice.choice(_KINDS)
                lines = Lines(kind.prompt_tokens, kind.completion_tokens, kind.spread, seed=1000 * seed + number)
                owner = f"owner-{dice.randrange(_OWNERS)}"
                turn = _Turn(lines, count, owner, number, knows_answers=dice.random() < 0.5)
                found.append(Forecasted(asyncio.get_running_loop().time()))
                open_turns[turn] = found[-1]
                group.create_task(_finish(turn, feeder, open_turns))
                await asyncio.sleep(dice.expovariate(1 / (_GAP_S * share)))
        looking.cancel()
    return found


async def _finish(turn: _Turn, feeder: Feeder, open_turns: dict[_Turn, Forecasted]) -> None:
    lane = turn.offer_to([feeder])
    await turn.over.wait()
    feeder.withdraw(lane)
    open_turns.pop(turn).done_s = asyncio.get_running_loop().time()


async def _look(feeder: Feeder, open_turns: dict[_Turn, Forecasted]) -> None:
    loop = asyncio.get_running_loop()
    usual = Ratios()
    while True:
        await asyncio.sleep(_LOOK_S)
        speed = feeder.observer.pace.speed
        if not speed.is_known:
            continue
        claims = [Claim(_queue(turn.turn.batch), turn.work_left.sum_up({_POOL: usual})) for turn in open_turns]
        jobs, _ = make_jobs(claims, {"engine": speed}, 0)
        done_s = forecast(jobs)
        for turn, one in open_turns.items():
            one.said.append((loop.time(), loop.time() + done_s[turn.turn.batch.id]))
            usual = turn.work_left.find_ratios(_POOL, usual)


def _queue(batch: Batch) -> QueuedBatch:
    known = {name: getattr(batch, name) for name in QueuedBatch.__struct_fields__}
    return QueuedBatch(**known)


def _guess(body: bytes, *, knows_answers: bool) -> tuple[int, int]:
    members = msgspec.json.decode(body)
    prompt = members.get("prompt") or members.get("input")
    return len(prompt) // 4, members.get("max_tokens", 0) if knows_answers else DEFAULT_ANSWER_TOKENS
