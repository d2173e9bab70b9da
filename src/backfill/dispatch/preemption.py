"""Lines in flight that are put back for live requests, the youngest first: what was computed of them is lost.

Only where a live request may find every place taken, and only lines whose place is free at once when their call is
cancelled. How much is thrown away is bounded by a budget: a share of what is got done.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from backfill.dispatch.lane import Lane
from backfill.dispatch.open_turn import OpenTurn
from backfill.engines import ReplicaLimits, Reply

__all__ = ["Preemption"]

_Task = asyncio.Task[None]
_WASTE_SHARE = 0.1
"""Of the time that answered lines were in flight, so much may be lost with lines that are put back."""
_FIRST_BUDGET_S = 2.0
"""A place: before anything was answered, and the most that is saved up."""


@dataclass(slots=True)
class _Flight:
    lane: Lane[OpenTurn]
    line: int
    since_s: float
    can_leave: bool | None = None
    """None: nobody asked yet."""


class Preemption:
    """The lines that are with one replica, as far as they could give way."""

    def __init__(self, limits: ReplicaLimits) -> None:
        self.is_possible = False
        """Whether any line could; if not, none needs to be told of."""
        self.leaving = 0
        """Lines that were told to leave and have not yet."""
        self._loop = asyncio.get_running_loop()
        # In the order in which they were sent.
        self._flights: dict[_Task, _Flight] = {}
        self._told: set[_Task] = set()
        self.adopt(limits)

    def adopt(self, limits: ReplicaLimits) -> None:
        """The replica is one with these limits."""
        self._gives_way = limits.gives_way
        self.is_possible = limits.gives_way is not None
        self._budget_most_s = self._budget_s = _FIRST_BUDGET_S * limits.concurrency

    async def follow(self, sending: Awaitable[Reply], task: _Task, lane: Lane[OpenTurn], line: int) -> Reply:
        """The reply to a line that `task` sends; until it is there, the line may be told to leave."""
        self._flights[task] = _Flight(lane, line, self._loop.time())
        try:
            reply = await sending
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.leave(task)
            raise
        finally:
            flight = self._flights.pop(task)
        earned_s = _WASTE_SHARE * (self._loop.time() - flight.since_s)
        self._budget_s = min(self._budget_s + earned_s, self._budget_most_s)
        return reply

    def preempt(self, places: int) -> None:
        """Have so many lines leave, or as many as may; each finds a `CancelledError` where it waits."""
        now_s = self._loop.time()
        for task, flight in reversed(self._flights.items()):  # a task leaves later, not while this goes on
            age_s = now_s - flight.since_s
            if places <= 0 or age_s > self._budget_s:
                return
            if task not in self._told and flight.lane.is_open and self._can_leave(flight):
                self._budget_s -= age_s
                self._told.add(task)
                self.leaving += 1
                places -= 1
                task.cancel()

    def count_able(self, most: int) -> int:
        """How many lines could leave now, counted up to `most`."""
        now_s, able = self._loop.time(), 0
        for task, flight in reversed(self._flights.items()):
            if able >= most or now_s - flight.since_s > self._budget_s:
                break
            able += task not in self._told and self._can_leave(flight)
        return able

    def leave(self, task: _Task) -> bool:
        """Whether a task that was cancelled was told to leave, and nothing else; its line is then to be put back."""
        if task not in self._told:
            return False
        self._told.discard(task)
        self.leaving -= 1
        return task.cancelling() == 1

    def _can_leave(self, flight: _Flight) -> bool:
        if flight.can_leave is None and self._gives_way is not None:
            turn = flight.lane.turn
            try:
                # It was read a moment ago, so it is at hand.
                flight.can_leave = self._gives_way(turn.endpoint, turn.read_body(flight.line))
            except Exception:  # noqa: BLE001 - the input cannot be read now: whoever sends its lines will say so
                return False
        return bool(flight.can_leave)
