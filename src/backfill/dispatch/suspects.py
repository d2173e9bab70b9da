"""Lines that an engine had when its process ended: one of them may be why, and the others must not pay for it.

They are tried again in ever smaller company, without lines of anybody else, until one of them ends the engine alone
(group testing: R. Dorfman, 1943). Only that costs a line a try. They stay with the replica that ended: where others
serve the same lines, those are not to be ended one after the other.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from backfill.dispatch.lane import Job, Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfill.dispatch.open_turn import OpenTurn

__all__ = ["Suspects"]

_SHARE: Final = 8
"""Of those that were there together, so many times fewer are the next time. Starts are dear: it is to take few."""


class Suspects:
    """Of one replica. While there are any, nothing else is sent to it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Lane[OpenTurn], int]] = deque()
        self._sent: set[tuple[Lane[OpenTurn], int]] = set()
        self._company = 0
        self._together = 0
        """How many lines the engine had when it ended; 0 once one of them was sent again."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._sent)

    @property
    def has_waiting(self) -> bool:
        """Whether one could be sent once there is room."""
        return bool(self._waiting)

    def allow(self, limit: int) -> int:
        """How many requests may be in flight, of as many as the replica takes."""
        return min(limit, self._company) if self else limit

    def note_end(self, in_flight: int) -> bool:
        """The engine ended over a line, one of so many that had not come back; whether it had that one alone."""
        if not (self._together and self):
            self._together = in_flight
            self._company = max(1, in_flight // _SHARE)
        return self._together == 1

    def hold(self, lane: "Lane[OpenTurn]", line: int) -> None:
        """Have a line wait until it is sent again, after those that wait already."""
        lane.delayed += 1
        self._waiting.append((lane, line))

    def take(self, in_flight: int) -> "tuple[Lane[OpenTurn], Job] | None":
        """The next to be sent; None if there is none, or those in flight are company enough."""
        while self._waiting and in_flight < self._company:
            lane, line = self._waiting.popleft()
            lane.delayed -= 1
            if lane.is_open:
                self._together = 0
                self._sent.add((lane, line))
                return lane, Job(line, None)
        return None

    def note_back(self, lane: "Lane[OpenTurn]", line: int) -> None:
        """A line came back, one of these or not."""
        self._sent.discard((lane, line))

    def forget(self, lane: "Lane[OpenTurn]") -> None:
        """Nothing of a lane is to be sent any more."""
        self._waiting = deque(each for each in self._waiting if each[0] is not lane)

    def release(self, may_leave: "Callable[[Lane[OpenTurn]], bool]") -> None:
        """Give back the lines that another replica may have, as this one does not come up."""
        held, self._waiting = self._waiting, deque()
        for lane, line in held:
            if may_leave(lane):
                lane.delayed -= 1
                lane.put_back(line)
            else:
                self._waiting.append((lane, line))
