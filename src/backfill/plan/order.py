"""(index - finished lines) -> the order in which lines are offered to engines. Pure, recomputed after every restart."""

from array import array
from typing import NamedTuple

from backfill.index import LineIndex

__all__ = ["LineGroup", "Plan", "plan_lines"]


class LineGroup(NamedTuple):
    """Lines whose prompts begin alike."""

    prefix: tuple[int, ...]
    """Hashes of the beginnings that at least two lines of the plan share, the shortest first; empty: none is shared."""
    lines: "array[int]"
    """In the order in which they are best sent; never empty."""


class Plan(NamedTuple):
    """What is left of a batch, in order."""

    groups: dict[int, list[LineGroup]]
    """Model (its position in the index's `model_names`) -> its lines, in the order in which they are best sent."""
    twins: dict[int, list[int]]
    """A line -> those that ask for the very same and have no outcome yet; they are not in `groups`.

    The line itself may have an outcome already.
    """


def plan_lines(index: LineIndex, outcomes: bytes | bytearray, *, reuse: bool) -> Plan:
    """The lines without an outcome, for each model; `reuse` allows that identical deterministic ones run once."""
    del reuse
    orders: dict[int, array[int]] = {}
    for line, (model, outcome) in enumerate(zip(index.models, outcomes, strict=True)):
        if not outcome:
            lines = orders.get(model)
            if lines is None:
                lines = orders[model] = array("I")
            lines.append(line)
    return Plan({model: [LineGroup((), lines)] for model, lines in orders.items()}, {})
