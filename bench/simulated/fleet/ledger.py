"""What is true of each turn, whatever the rows say: lines that are left, who works on it, and what was missed.

It stands for the journals, and watches that nobody works on what somebody else has.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from backfill.batch import Batch, State
from backfill.turns import Turn
from bench.simulated.fleet.load import Job
from bench.simulated.fleet.meter import Meter

__all__ = ["Book", "Holder", "Ledger"]

_SMALL_SLICES = 8
_SMALL_SHARE = 4
_LINES_MIN = 0.5


class Holder(Protocol):
    """A worker."""

    @property
    def may_hold_until_s(self) -> float:
        """Until when what he took is his; infinite while he is alive."""

    def settle(self) -> None:
        """Note what was sent by now."""

    def let_go(self, batch_id: str) -> None:
        """The batch has ended."""


@dataclass
class Book:
    """Of one batch."""

    job: Job
    left: dict[int, float]
    """Turn (its slice's number, 0 for all of it) -> lines that have no answer."""
    state: State = State.VALIDATING
    held: dict[int, Holder] = field(default_factory=dict)
    free: int = 0
    """Turns that anybody may take."""
    is_near: bool = False
    """Its deadline, so that it goes before others whatever else waits."""
    is_pressed: bool = False
    """For time, so that it goes before others."""
    missed_lines: float = 0.0
    """That had no answer at the deadline."""

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended."""
        return self.state.is_final


class Ledger:
    """Of all batches; hears of their rows as they change."""

    def __init__(self, meter: Meter) -> None:
        self.books: dict[str, Book] = {}
        self.free_of: dict[str, dict[str, None]] = {}
        """Owner -> his batches of which turns are free; nothing of those who have none."""
        self.violations: list[str] = []
        self.open_batches = 0
        """Those that have not ended."""
        self.closing = 0
        self.pressed: dict[str, None] = {}
        """Batches of which turns are free and that are pressed for time."""
        self.redone = 0.0
        """Lines that were sent twice, as a worker died."""
        self._meter = meter

    def add(self, job: Job, slices: int) -> None:
        """A batch is made."""
        self.books[job.id] = Book(job, _cut(job.lines, slices))
        self.open_batches += 1
        self._meter.change_unsent(max(1, slices))

    def claim(self, turn: Turn, holder: Holder) -> float:
        """Somebody has the turn from now on: how many lines are left of it."""
        book, number = self.books[turn.batch.id], turn.slice_number
        before = book.held.get(number)
        now_s = asyncio.get_running_loop().time()
        if before is not None and before.may_hold_until_s > now_s:
            self.violations.append(f"{turn.name} was taken while somebody had it")
        if before is None:
            self._change_free(book, -1)
        book.held[number] = holder
        return book.left[number]

    def lower(self, batch_id: str, number: int, lines: float) -> None:
        """So many lines were answered."""
        book = self.books[batch_id]
        before = book.left[number]
        book.left[number] = before - lines if before - lines >= _LINES_MIN else 0.0
        if before and not book.left[number] and not book.state.is_closing:
            self._meter.change_unsent(-1)

    def lose(self, batch_id: str, number: int, lines: float, most: float) -> None:
        """So many lines were answered, and nobody knows it."""
        book = self.books[batch_id]
        lost = min(lines, most - book.left[number])
        if lost > 0 and not book.state.is_closing:
            if not book.left[number]:
                self._meter.change_unsent(1)
            book.left[number] += lost
            self.redone += lost

    def free(self, batch_id: str, number: int) -> None:
        """Nobody has the turn any more, of which lines are left."""
        book = self.books[batch_id]
        book.held.pop(number, None)
        self._change_free(book, 1)

    def note_over(self, batch_id: str, number: int) -> None:
        """The lease of a dead holder is over: the turn may be taken, though his name still stands there."""
        book = self.books[batch_id]
        book.held.pop(number, None)
        self._change_free(book, 1)

    def end_turn(self, batch_id: str, number: int) -> None:
        """It is given back, and nothing is left of it."""
        self.books[batch_id].held.pop(number, None)

    def press(self, batch_id: str, *, is_pressed: bool) -> None:
        """From now on the batch is pressed for time, or not."""
        book = self.books[batch_id]
        book.is_pressed = is_pressed
        if is_pressed and book.free:
            self.pressed[batch_id] = None
        else:
            self.pressed.pop(batch_id, None)

    def note_added(self, batch: Batch) -> None:
        """See `BatchWatcher`."""

    def note_changed(self, batch_id: str, values: Mapping[str, Any]) -> None:
        """See `BatchWatcher`."""
        if "state" not in values:
            return
        book, state = self.books[batch_id], State(values["state"])
        was_closing = book.state.is_closing
        if state.is_closing and not was_closing:
            self.closing += 1
            self._stop(book)
        book.state = state
        if state is State.IN_PROGRESS:
            self._change_free(book, len(book.left))
        elif state.is_final:
            self.closing -= was_closing
            self.open_batches -= 1

    def forget(self) -> None:
        """See `BatchWatcher`."""

    def _stop(self, book: Book) -> None:
        """No line of it is sent any more."""
        self._change_free(book, -book.free)
        for holder in dict.fromkeys(book.held.values()):
            holder.settle()
            holder.let_go(book.job.id)
        book.missed_lines = sum(book.left.values())
        self._meter.change_unsent(-sum(lines > 0 for lines in book.left.values()))

    def _change_free(self, book: Book, by: int) -> None:
        if book.state is not State.IN_PROGRESS:
            return
        had_free = book.free > 0
        book.free += by
        owner, batch_id = book.job.owner, book.job.id
        if book.free and not had_free:
            self.free_of.setdefault(owner, {})[batch_id] = None
            if book.is_pressed:
                self.pressed[batch_id] = None
        elif had_free and not book.free:
            self.pressed.pop(batch_id, None)
            del self.free_of[owner][batch_id]
            if not self.free_of[owner]:
                del self.free_of[owner]


def _cut(lines: int, slices: int) -> dict[int, float]:
    """As `plan.cut_lines` does where lines share nothing: the last ones are small."""
    if not slices:
        return {0: float(lines)}
    sizes = [1 if slices - number <= _SMALL_SLICES else _SMALL_SHARE for number in range(slices)]
    return {1 + number: lines * size / sum(sizes) for number, size in enumerate(sizes)}
