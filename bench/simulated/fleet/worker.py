"""A worker of one replica: takes turns by the real code, and sends their lines at the pace of its engine.

Which lines go next the dispatcher's own `FairShare` says, for up to a quantum at a time. The rest is put together here
as `dispatch.Dispatcher` does it: when it looks for turns, what it holds already, when it wants more.
"""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from backfill.batch import Batch
from backfill.dispatch.fair_share import PRESSED_MARGIN, Demand, FairShare, find_endangered
from backfill.dispatch.slice_supply import OPEN_SLICES_MAX, count_lacking_lines
from backfill.errors import TurnLost
from backfill.status import WorkerReport, WorkerStatus
from backfill.turns import Stock, Turn, Turns
from bench.simulated.fleet.database import Kind, of_kind
from bench.simulated.fleet.settings import ENGINE, TOKENS_A_LINE

if TYPE_CHECKING:
    from bench.simulated.fleet.installation import Installation

__all__ = ["OpenTurn", "SimulatedWorker"]

_TICK_S = 1.0
_PAUSE_S = 0.02
_OPEN_BATCHES = 96
_TURN_S = 10.0
_STOCK_S = 10.0
_SLACK_S = 5.0
_LASTING_S = 2.0
_RENEWALS_A_LEASE = 3
_LINES_MIN = 0.5


class OpenTurn:
    """Lines of one turn."""

    def __init__(self, turn: Turn, lines: float) -> None:
        self.turn = turn
        self.lines = lines
        """That are not sent."""
        self.most = lines
        self.is_open = False

    @property
    def unsent(self) -> int:
        """See `fair_share.Queue`."""
        return math.ceil(self.lines)


class SimulatedWorker:
    """From its first look to its end."""

    def __init__(self, installation: "Installation", turns: Turns, number: int, seed: int) -> None:
        self.number = number
        self.turns = turns
        self.may_hold_until_s = math.inf
        self.held: dict[str, OpenTurn] = {}
        """Name of a turn -> it; those whose last lines are with the engine are not among them any more."""
        self.lines_of: defaultdict[str, float] = defaultdict(float)
        """Owner -> lines of his that are here and not sent."""
        self._fleet = installation
        self._settings = installation.settings
        self._rate = installation.settings.lines_per_s
        self._enough = max(2 * self._settings.places, round(_STOCK_S * self._rate))
        self._share: FairShare[OpenTurn] = FairShare(self._rate * _TURN_S)
        self._landing: dict[str, OpenTurn] = {}
        self._serving: OpenTurn | None = None
        self._serving_since_s = 0.0
        self._is_feeding = False
        self._has_worked = False
        self._supply = asyncio.Event()
        self._asked = asyncio.Event()
        self._looking = asyncio.Lock()
        self._asked_for_s = math.inf
        self._none_free_until_s: dict[str, float] = {}
        self._renewed_at_s = 0.0
        self._phase_s = random.Random(seed).random() * _TICK_S
        self._tasks: list[asyncio.Task[None]] = []
        self._errands: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Look for turns from now on."""
        self._renewed_at_s = self._now_s
        self._fleet.lack(self, None)
        names = {"feed": self._feed(), "turns": self._look_for_turns(), "renew": self._renew()}
        self._tasks = [asyncio.create_task(each, name=f"{name} {self.number}") for name, each in names.items()]
        self.ask(0.0)

    async def stop(self) -> None:
        """Give all turns back."""
        async with self._looking:
            # A look that is under way is not cut off, or nobody would give back what it takes.
            self.settle()
            self._end()
        while self._errands:
            await asyncio.wait(self._errands)
        for one in [*self.held.values()]:
            await self._give_up(one)

    def kill(self) -> None:
        """Be gone, with what was with the engine or not on disk."""
        self.settle()
        self._end()
        for errand in self._errands:
            errand.cancel()
        self.may_hold_until_s = self._renewed_at_s + self._settings.lease_ms / 1000
        lost = (self._settings.answer_s + self._settings.commit_s) * self._rate
        for one in [*self._landing.values(), *self.held.values()]:
            batch_id, number = one.turn.batch.id, one.turn.slice_number
            self._fleet.ledger.lose(batch_id, number, lost, one.most)
            lost = 0.0
            self._fleet.free_later(self, batch_id, number)

    def ask(self, in_s: float) -> None:
        """Look for turns then, if not before."""
        at_s = self._now_s + in_s
        if at_s >= self._asked_for_s:
            return
        self._asked_for_s = at_s
        asyncio.get_running_loop().call_at(at_s, self._asked.set)

    def ask_at_tick(self) -> None:
        """Look for turns when it is time for that in any case."""
        self.ask(_TICK_S - (self._now_s - self._phase_s) % _TICK_S)

    def let_go(self, batch_id: str) -> None:
        """A batch has ended, which is seen at the next tick: send nothing more of it."""
        for one in [one for one in self.held.values() if one.turn.batch.id == batch_id]:
            self._do(self._give_up_at_tick(one))

    def lacks(self, owner: str) -> bool:
        """Whether more lines of this owner would be taken, though none of his batches is pressed."""
        return self.lines_of[owner] < self._enough

    def lacks_due(self, due_s: float) -> bool:
        """Whether lines would be taken of a batch that is pressed, whatever is here of its owner."""
        due_at_ms = self._fleet.begin_ms + 1000 * due_s
        return sum(one.lines for one in self._list_due() if one.turn.batch.deadline_at_ms <= due_at_ms) < self._enough

    @property
    def batch_ids(self) -> set[str]:
        """The batches on which it works."""
        return {one.turn.batch.id for one in (*self.held.values(), *self._landing.values())}

    @property
    def status(self) -> WorkerStatus:
        """What it tells of itself."""
        now = self._fleet.clock_ms()
        held = [*self.held.values(), *self._landing.values()]
        report = WorkerReport(
            batches=tuple(dict.fromkeys(one.turn.batch.id for one in held)),
            work_left={
                one.turn.batch.id: (0.0, one.lines * TOKENS_A_LINE) for one in held if not one.turn.slice_number
            },
            token_s={ENGINE: (0.0, 1 / (self._rate * TOKENS_A_LINE))} if self._has_worked else {},
        )
        return WorkerStatus(
            id=self.turns.holder,
            role="work",
            host="node",
            pid=self.number,
            version="",
            started_at_ms=now,
            seen_at_ms=now,
            report=report,
        )

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._note_feeding(None)
        self._fleet.lack_nothing(self)

    # Lines

    async def _feed(self) -> None:
        while True:
            one = self._choose()
            self._note_feeding(one)
            self._supply.clear()
            if one is None:
                await self._supply.wait()
            else:
                timer = asyncio.get_running_loop().call_later(self._measure_step_s(one), self._supply.set)
                await self._supply.wait()
                timer.cancel()
            self.settle()

    def _choose(self) -> OpenTurn | None:
        waiting = [one for one in self.held.values() if one.is_open and one.lines]
        if len(waiting) < 2:
            return waiting[0] if waiting else None
        waiting.sort(key=lambda one: one.turn.batch.deadline_at_ms)
        urgency = self._fleet.urgency
        endangered, pressed = self._find_endangered(waiting)
        self._share.endangered = [one for one in waiting if one in endangered or urgency.is_endangered(one.turn.batch)]
        self._share.pressed = [one for one in waiting if one in pressed or urgency.is_pressed(one.turn.batch)]
        return next(self._share.order(), None)

    def _find_endangered(self, waiting: Sequence[OpenTurn]) -> tuple[set[OpenTurn], set[OpenTurn]]:
        """As it is seen from here: endangered, and pressed."""
        now_ms = self._fleet.clock_ms() + 1000 * self._settings.answer_s
        left_s = (waiting[0].turn.batch.deadline_at_ms - now_ms) / 1000
        work_s = sum(one.lines for one in waiting) / self._rate
        if work_s * (1 + PRESSED_MARGIN) + _SLACK_S <= left_s:
            return set(), set()
        demands = [
            Demand(one, one.lines / self._rate, (one.turn.batch.deadline_at_ms - now_ms) / 1000)
            for one in waiting
            if one.turn.batch.id not in self._fleet.urgency.given_up
        ]
        return {*find_endangered(demands, _SLACK_S)}, {*find_endangered(demands, _SLACK_S, PRESSED_MARGIN)}

    def _measure_step_s(self, one: OpenTurn) -> float:
        """Until another one may go, or it is time to look for more."""
        spare = one.lines - max(2 * self._settings.places, _LASTING_S * self._rate)
        return min(_TURN_S, (spare if spare > _LINES_MIN else one.lines) / self._rate)

    def settle(self) -> None:
        """Take off what was sent since the last time."""
        one, now_s = self._serving, self._now_s
        if one is None:
            return
        sent = min(one.lines, (now_s - self._serving_since_s) * self._rate)
        self._serving_since_s = now_s
        one.lines -= sent
        if one.lines < _LINES_MIN:
            sent, one.lines = sent + one.lines, 0.0
        batch = one.turn.batch
        self._share.charge(one, sent)
        self._fleet.ledger.lower(batch.id, one.turn.slice_number, sent)
        self.lines_of[batch.owner] -= sent
        self._has_worked = True
        if not one.lines:
            self._land(one)
        self._note_stock(batch)

    def _note_stock(self, batch: Batch) -> None:
        """What is here has become less: it may be time for more."""
        if self.lacks(batch.owner):
            self._fleet.lack(self, batch.owner)
        if self._fleet.has_free_for(self) or self._wants_further(batch):
            self.ask_at_tick()

    def _wants_further(self, batch: Batch) -> bool:
        return self._count_lacking(batch) > 0

    def _note_feeding(self, one: OpenTurn | None) -> None:
        self._serving, self._serving_since_s = one, self._now_s
        if (one is not None) != self._is_feeding:
            self._is_feeding = one is not None
            self._fleet.meter.change_feeding(1 if self._is_feeding else -1)

    def _land(self, one: OpenTurn) -> None:
        """Its last lines are with the engine."""
        if self._serving is one:
            self._serving = None
        self._share.remove(one)
        del self.held[one.turn.name]
        self._landing[one.turn.name] = one
        self._do(self._drain(one))

    async def _drain(self, one: OpenTurn) -> None:
        await asyncio.sleep(self._settings.answer_s)
        batch_id, number = one.turn.batch.id, one.turn.slice_number
        # What follows is written at once, and only takes its time.
        del self._landing[one.turn.name]
        try:
            with of_kind(Kind.GIVE_BACK):
                await self.turns.give_back(one.turn, drained=True)
        except TurnLost:
            if not self._fleet.ledger.books[batch_id].state.is_closing:
                self._fleet.ledger.violations.append(f"{one.turn.name} was lost by a worker that was alive")
        self._fleet.ledger.end_turn(batch_id, number)
        self.ask(_PAUSE_S)

    # Turns

    async def _look_for_turns(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._asked_for_s = math.inf
            async with self._looking:
                if self._fleet.has_free_for(self):
                    await self._take_new()
                for batch in self._list_batches():
                    await self._take_further(batch)
            await asyncio.sleep(_PAUSE_S)

    async def _take_new(self) -> None:
        turns = [one.turn for one in (*self.held.values(), *self._landing.values())]
        room = _OPEN_BATCHES - len({turn.batch.id for turn in turns})
        lines = {owner: round(lines) for owner, lines in self.lines_of.items()}
        due = [(one.turn.batch.deadline_at_ms, round(one.lines)) for one in self._list_due()]
        stock = Stock(lines, self._enough, due, self._fleet.urgency)
        with of_kind(Kind.CLAIM):
            taken = await self.turns.take(room, turns, lines_per_s=self._rate, stock=stock)
        self._fleet.note_looked(found=bool(taken))
        for turn in taken:
            self._begin(turn)

    async def _take_further(self, batch: Batch) -> None:
        now_s = self._now_s
        if now_s < self._none_free_until_s.get(batch.id, now_s):
            return
        most = self._count_lacking(batch)
        if not most:
            return
        own = [one.turn for one in (*self.held.values(), *self._landing.values())]
        besides = [turn.slice_number for turn in own if turn.batch.id == batch.id]
        with of_kind(Kind.FURTHER):
            taken = await self.turns.take_slices(batch, most, besides)
        self._fleet.note_asked_further(found=bool(taken))
        if not taken:
            self._none_free_until_s[batch.id] = now_s + _TICK_S
        for turn in taken:
            self._begin(turn)

    def _list_due(self) -> list[OpenTurn]:
        """Those for which there is time."""
        return [one for one in self.held.values() if one.turn.batch.id not in self._fleet.urgency.given_up]

    def _list_batches(self) -> list[Batch]:
        return [*{one.turn.batch.id: one.turn.batch for one in self.held.values() if one.turn.slice_number}.values()]

    def _count_lacking(self, batch: Batch) -> int:
        """As `Works.count_lacking` does."""
        own = [one for one in self.held.values() if one.turn.batch.id == batch.id]
        if not batch.slices or not any(one.is_open for one in own):
            return 0
        unsent = sum(one.lines for one in own if one.is_open)
        opening = sum(one.lines for one in own if not one.is_open)
        lacking = count_lacking_lines(round(unsent), self._settings.places, self._rate, opening)
        lines_a_slice = batch.counts.total / batch.slices
        return max(0, min(math.ceil(lacking / max(1.0, lines_a_slice)), OPEN_SLICES_MAX - len(own)))

    def _begin(self, turn: Turn) -> None:
        one = OpenTurn(turn, self._fleet.ledger.claim(turn, self))
        self.held[turn.name] = one
        self._share.add(one, turn.batch.owner, (-turn.batch.priority, turn.batch.deadline_at_ms, turn.name))
        self.lines_of[turn.batch.owner] += one.lines
        if not self.lacks(turn.batch.owner):
            self._fleet.lack_no_more(self, turn.batch.owner)
        asyncio.get_running_loop().call_later(self._settings.open_s, self._open, one)

    def _open(self, one: OpenTurn) -> None:
        if self.held.get(one.turn.name) is not one or not self._tasks:
            return
        one.is_open = True
        if not one.lines:
            self._land(one)
        self._supply.set()

    async def _give_up_at_tick(self, one: OpenTurn) -> None:
        await asyncio.sleep(_TICK_S - (self._now_s - self._phase_s) % _TICK_S)
        if self.held.get(one.turn.name) is one:
            await self._give_up(one)

    async def _give_up(self, one: OpenTurn) -> None:
        if self._serving is one:
            self.settle()
            self._serving = None
        if self.held.pop(one.turn.name, None) is None:
            return
        self._share.remove(one)
        batch = one.turn.batch
        self.lines_of[batch.owner] -= one.lines
        self._supply.set()
        with of_kind(Kind.GIVE_BACK):
            await self.turns.give_back(one.turn, drained=False)
        self._fleet.ledger.free(batch.id, one.turn.slice_number)
        if self._tasks:
            self._note_stock(batch)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_ms / 1000 / _RENEWALS_A_LEASE)
            held = [one.turn for one in (*self.held.values(), *self._landing.values())]
            self._renewed_at_s = self._now_s
            if held:
                with of_kind(Kind.RENEWAL):
                    await self.turns.renew(held)

    def _do(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
