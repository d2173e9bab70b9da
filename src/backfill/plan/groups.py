"""What a plan is made of: lines in groups that begin alike."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from array import array

__all__ = ["LineGroup", "Plan"]


class LineGroup(NamedTuple):
    """Lines whose prompts begin alike."""

    prefix: tuple[int, ...]
    """Hashes of the beginnings that at least two lines of the plan share, the shortest first; empty: none is shared."""
    lines: "array[int]"
    """In the order in which they are best sent; never empty."""
    prefix_bytes: int = 0
    """How long the longest of these beginnings is at least."""
    answer_tokens: int = 0
    """What all lines together may be answered with."""


class Plan(NamedTuple):
    """What is left of a batch, in order."""

    groups: dict[int, list[LineGroup]]
    """Model (its position in the index's `model_names`) -> its lines, in the order in which they are best sent."""
    twins: dict[int, list[int]]
    """A line -> those that ask for the very same and have no outcome yet; they are not in `groups`.

    The line itself may have an outcome already.
    """
