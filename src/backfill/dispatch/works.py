"""The turns of one process, each with the task that carries it out."""

import asyncio
import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from backfill.batch import Batch
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.slice_supply import OPEN_SLICES_MAX, count_lacking_lines
from backfill.status import Urgency
from backfill.turns import Stock, Turn

__all__ = ["Work", "Works"]

# Beside other processes no more of an owner's lines are taken than last so long.
_STOCK_S = 10.0


@dataclass
class Work:
    """A turn that is carried out by a task; setting `over` has it wind down."""

    turn: Turn
    over: asyncio.Event
    task: "asyncio.Task[None] | None" = None
    opened: OpenTurn | None = None
    """Set while its lines are fed."""
    is_landing: bool = False
    """The batch is paused: no line is sent any more, and what is in flight has all the time that it takes."""
    is_fenced: bool = True
    """What whoever had the turn before may still write does not count."""
    is_done: bool = False
    """Nothing is done for it any more but to give it back: should that fail, its lease must run out."""

    def let_land(self) -> None:
        """Send nothing more, and wait for what is in flight."""
        self.is_landing = not self.over.is_set() or self.is_landing
        self.over.set()
        if self.opened is not None:
            self.opened.stop()

    def wind_down(self, grace_s: float) -> None:
        """Send nothing more, and give what is in flight so many seconds."""
        self.is_landing = False
        self.over.set()
        if self.opened is not None:
            self.opened.cut_after(grace_s)


class Works:
    """Those that are not given back yet: one of each batch, or of each slice."""

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}
        """By the names of their turns."""
        self.urgency = Urgency()
        """Which deadlines are in danger, of all that waits, wherever it is."""

    def __iter__(self) -> Iterator[Work]:
        return iter([*self._works.values()])

    def add(self, work: Work) -> None:
        """Take a turn in."""
        self._works[work.turn.name] = work

    def remove(self, turn: Turn) -> None:
        """It is given back, or lost."""
        del self._works[turn.name]

    def find(self, batch_id: str) -> list[Work]:
        """Those on a batch: one, or some on slices of it."""
        return [work for work in self._works.values() if work.turn.batch.id == batch_id]

    def list_turns(self, *, landing: bool) -> list[Turn]:
        """Those whose batch is paused, or the others."""
        return [work.turn for work in self._works.values() if work.is_landing is landing]

    def list_batches(self, *, landing: bool = False) -> list[Batch]:
        """Theirs: each once, however many of its slices are open, so that it takes no more places than others."""
        return [*{turn.batch.id: turn.batch for turn in self.list_turns(landing=landing)}.values()]

    def take_stock(self, feeders: Collection[Feeder]) -> Stock:
        """What fills the engines until the next batch is opened; more would lie here while others had nothing to do."""
        places = sum(feeder.concurrency_limit for feeder in feeders)
        lines_per_s = sum(feeder.tally.requests_per_s for feeder in feeders)
        lines: Counter[str] = Counter()
        due: list[tuple[int, int]] = []
        for work in self._works.values():
            if not work.is_done:
                batch = work.turn.batch
                unopened = batch.counts.total // max(1, batch.slices)
                left = unopened if work.opened is None else work.opened.lines_left
                lines[batch.owner] += left
                if batch.id not in self.urgency.given_up:
                    due.append((batch.deadline_at_ms, left))
        return Stock(lines, max(2 * places, round(_STOCK_S * lines_per_s)), due, self.urgency)

    def count_lacking(self, batch: Batch, feeders: Collection[Feeder]) -> int:
        """How many further slices of a batch that was cut to take now, so that none of these runs dry."""
        works = self.find(batch.id)
        alive = [work for work in works if not work.over.is_set()]
        lines_a_slice = batch.counts.total / batch.slices
        opening = lines_a_slice * sum(work.opened is None for work in alive)
        # One that cannot be reached must not keep the others from what is theirs; and one without a line of the open
        # slices has none of the others as a rule.
        demands = [_measure_demand(feeder, batch) for feeder in feeders if feeder.is_well]
        lacking = [count_lacking_lines(*demand, opening) for demand in demands if demand is not None]
        lines = max(lacking, default=0.0 if alive else 1.0)
        return max(0, min(math.ceil(lines / max(1.0, lines_a_slice)), OPEN_SLICES_MAX - len(works)))


def _measure_demand(feeder: Feeder, batch: Batch) -> tuple[int, int, float] | None:
    """Lines of the batch for the replica that are not sent, what is with it, and how fast it is; None: it has none."""
    lanes = [lane for lane in feeder.lanes if lane.turn.turn.batch.id == batch.id and lane.is_open]
    if not lanes:
        return None
    return sum(lane.unsent + lane.delayed for lane in lanes), feeder.in_flight, feeder.tally.requests_per_s
