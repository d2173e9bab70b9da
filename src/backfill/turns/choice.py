"""Which of the batches that wait are worked on next. Pure."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from backfill.batch import Batch
from backfill.status import Urgency

__all__ = ["Choice", "Stock"]

# An owner may have so many turns for each place that is left to others: where he is alone, two places of three.
_TURNS_PER_FREE_PLACE = 2
# A batch is pressed for time when this share of its time is left, or so many times as long as its lines take.
_PRESSED_SHARE = 0.25
_PRESSED_TIMES = 2.0
_OWNERS_PASSED_OVER = 16
# Where others take turns too, and the engines have enough, a look is for owners who have nothing here, and is to cost
# little: a thousand workers look once a second. What one look does not see, the next one does.
_SEEN_AT_ONCE = 8


class Stock(NamedTuple):
    """What one process has of those batches that others could have instead.

    Of an owner of whom enough is here no further batch is chosen, unless it is pressed; and none that is pressed where
    enough is here that is due before it.
    """

    lines: Mapping[str, int]
    """Owner -> lines of his that are left in open turns."""
    enough: int
    due: Sequence[tuple[int, int]] = ()
    """Deadline and lines that are left of each open turn, but for those of batches that are given up."""
    urgency: Urgency = Urgency()
    """Which deadlines are in danger, of all that waits."""

    @property
    def is_enough(self) -> bool:
        """Whether the engines have enough, whoever's it is."""
        return sum(self.lines.values()) >= self.enough

    def count_due(self, deadline_at_ms: int) -> int:
        """Lines that are due by then, and so go before those of a batch with that deadline."""
        return sum(lines for due_at_ms, lines in self.due if due_at_ms <= deadline_at_ms)


class Choice:
    """Gives places to owners in turn, and every second one to a batch that is pressed for time, if there is one."""

    def __init__(
        self,
        being_done: Sequence[Batch],
        room: int,
        now_ms: int,
        lines_per_s: float,
        besides: Collection[str] = (),
        stock: Stock | None = None,
    ) -> None:
        """`besides`: ids of batches that are not to be chosen, and take nothing of their owners' part.

        `stock`: what is enough, where others take turns too; None: nobody else does.
        """
        self.most = min(room, _SEEN_AT_ONCE) if stock is not None and stock.is_enough else room
        """So many are looked for at once."""
        self.last_owner: str | None = None
        """Whose turn it was last, or who was seen last if it was nobody's; None: nobody was seen."""
        self._stock = stock
        self._due: list[tuple[int, int]] = []
        self._room = room
        self._now_ms = now_ms
        self._lines_per_s = lines_per_s
        self._lines = Counter(stock.lines if stock else ())
        self._lines_enough = stock.enough if stock else math.inf
        self._taken = {*besides, *(batch.id for batch in being_done)}
        self._held = Counter(batch.owner for batch in being_done)

    @property
    def owners_to_see(self) -> int:
        """Those who have their part already must not hide the others; what one look does not see, the next one does."""
        return self.most + min(_OWNERS_PASSED_OVER, sum(not self._may_have(owner) for owner in self._held))

    @property
    def not_due(self) -> tuple[str, ...]:
        """Batches for which there is no time any more: they go before nobody."""
        return () if self._stock is None else tuple(self._stock.urgency.given_up)

    @property
    def due_to_see(self) -> int:
        """Those of which there is a turn already must not hide the others."""
        return self.most if self._stock is None else min(self._room, self.most + len(self._taken))

    def choose(
        self, due_first: Sequence[Batch], in_round: Sequence[Batch], *, deadlines_first: bool = True
    ) -> list[Batch]:
        """As many as there is room for: of those that are due first, and of those that are next in their owners' round.

        `deadlines_first` has to alternate, or where there is one place at a time it would go to one kind alone.
        """
        self.last_owner = in_round[-1].owner if in_round else None
        pressed = [batch for batch in due_first if self._is_pressed(batch)]
        chosen: list[Batch] = []
        while self._room > 0:
            rows = (pressed, in_round) if deadlines_first else (in_round, pressed)
            deadlines_first = not deadlines_first
            batch = self._find(rows[0], is_pressed=rows[0] is pressed) or self._find(
                rows[1], is_pressed=rows[1] is pressed
            )
            if batch is None:
                break
            chosen.append(batch)
            self._room -= 1
            self._taken.add(batch.id)
            self._held[batch.owner] += 1
            # Of one that was cut it is one slice.
            lines = batch.counts.total // max(1, batch.slices)
            self._lines[batch.owner] += lines
            self._due.append((batch.deadline_at_ms, lines))
        return chosen

    def _find(self, row: Sequence[Batch], *, is_pressed: bool) -> Batch | None:
        for batch in row:
            if batch.id in self._taken:
                continue
            if self._may_have_pressed(batch) if is_pressed else self._may_have(batch.owner):
                if not is_pressed:
                    self.last_owner = batch.owner
                return batch
        return None

    def _may_have(self, owner: str) -> bool:
        has_enough = self._lines[owner] >= self._lines_enough
        return not has_enough and self._held[owner] < max(1, _TURNS_PER_FREE_PLACE * self._room)

    def _may_have_pressed(self, batch: Batch) -> bool:
        if self._stock is None:
            return True
        chosen = sum(lines for due_at_ms, lines in self._due if due_at_ms <= batch.deadline_at_ms)
        return self._stock.count_due(batch.deadline_at_ms) + chosen < self._lines_enough

    def _is_pressed(self, batch: Batch) -> bool:
        if self._stock is not None and self._stock.urgency.is_pressed(batch):
            return True
        left_ms = batch.deadline_at_ms - self._now_ms
        if left_ms < _PRESSED_SHARE * (batch.deadline_at_ms - batch.created_at_ms):
            return True
        return self._lines_per_s > 0 and left_ms < _PRESSED_TIMES * 1000 * batch.counts.total / self._lines_per_s
