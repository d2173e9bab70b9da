"""(index - finished lines) -> the order in which lines are offered to engines. Pure, recomputed after every restart."""

from array import array
from collections.abc import Sequence

__all__ = ["order_lines"]


def order_lines(models: Sequence[int], outcomes: bytes | bytearray) -> dict[int, "array[int]"]:
    """The lines without an outcome, in file order, for each model (its position in the index's `model_names`).

    File order is best for engines that keep one cache a slot: sorted prefixes make every slot meet every prefix.
    """
    orders: dict[int, array[int]] = {}
    for line, (model, outcome) in enumerate(zip(models, outcomes, strict=True)):
        if not outcome:
            lines = orders.get(model)
            if lines is None:
                lines = orders[model] = array("I")
            lines.append(line)
    return orders
