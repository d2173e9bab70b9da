"""How many replicas of an engine there should be: as many as what waits needs, and fewer only after a while. Pure.

Replica-hours cost the same whether few work long or many work briefly, but for the time that each takes to start. So
replicas are added until what waits would be done within `clear_s`, or sooner where a deadline asks for it; and never
more than find something to do.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Bounds", "Demand", "Descent", "Sight", "want_replicas"]


class Bounds(NamedTuple):
    """What the settings say of one engine."""

    least: int
    most: int
    idle_s: float
    """For so long there must be more than needed before one goes."""
    clear_s: float
    """By then what waits should be done."""
    start_s: float
    """From the start of a replica to its first answer."""


class Demand(NamedTuple):
    """What one batch still needs of an engine."""

    work_s: float | None
    """How long one replica alone takes; None: nobody has seen yet how fast one is."""
    left_s: float
    """Until its deadline."""


class Sight(NamedTuple):
    """One engine, as it is now."""

    demands: Sequence[Demand]
    replicas: int
    """Those that there are, those that are being started among them, without those that are being stopped."""
    occupied: int
    """Of these, those that have a turn."""
    free_turns: int
    """Turns that nobody has yet: so many more could begin at once."""


def want_replicas(bounds: Bounds, sight: Sight) -> int:
    """How many would be right at this moment, whatever was right before."""
    if not sight.demands:
        return bounds.least
    known = [demand for demand in sight.demands if demand.work_s is not None]
    needed = 1
    if len(known) < len(sight.demands):
        # One tells how fast they are; what is there may stay until it has told.
        needed = max(needed, sight.replicas)
    work_s = sum(demand.work_s or 0.0 for demand in known)
    needed = max(needed, math.ceil(work_s / bounds.clear_s), _count_for_deadlines(bounds, sight, known))
    # A replica without a turn does nothing, however much others have to do.
    useful = max(1, sight.occupied + sight.free_turns)
    return max(bounds.least, min(needed, useful, bounds.most))


def _count_for_deadlines(bounds: Bounds, sight: Sight, known: Sequence[Demand]) -> int:
    """So many that each deadline is met that can be: those that there are work from now on, others from their start."""
    needed = 0
    passed_s = 0.0
    for demand in sorted(known, key=lambda demand: demand.left_s):
        passed_s += demand.work_s or 0.0
        left_s, helped_s = demand.left_s, demand.left_s - bounds.start_s
        if left_s <= 0:
            continue
        if passed_s <= sight.replicas * left_s:
            needed = max(needed, min(sight.replicas, math.ceil(passed_s / left_s)))
        elif helped_s > 0:
            more = min((passed_s - sight.replicas * left_s) / helped_s, float(bounds.most))
            needed = max(needed, sight.replicas + math.ceil(more))
    return needed


class Descent:
    """Up at once; down one after another, and only once fewer would have been enough for a while."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._since_s: float | None = None

    def choose(self, now_s: float, wanted: int, count: int, *, is_stopping: bool = False) -> int:
        """How many to have from now on. `is_stopping`: one is being stopped, and the next one waits for that."""
        if wanted >= count:
            self._since_s = None
            return wanted
        if self._since_s is None:
            self._since_s = now_s
        if is_stopping or now_s - self._since_s < self._idle_s:
            return count
        return count - 1
