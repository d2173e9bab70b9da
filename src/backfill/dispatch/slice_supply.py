"""How many further slices of a batch this process takes, beside those on which it works. Pure.

As few as keep its engines busy, so that what is left of the batch is there for others: those who are slower, or come
later, take theirs when they need them, and all are through at nearly the same time. And enough that no engine waits for
the next slice to be opened: what is not sent yet has to last until the next look and beyond, at the pace of now.
"""

__all__ = ["OPEN_SLICES_MAX", "count_lacking_lines"]

OPEN_SLICES_MAX = 32
"""Of one batch in one process: each has a file of its own."""
# An engine takes so many times what is with it before anybody looks again, if answers come all at once.
_TIMES_IN_FLIGHT = 2
# A look comes every second, and a slice is opened within another.
_LASTING_S = 2.0
# Before anything is known of the pace; and where a few lines wait long for another try.
_LINES_MIN = 16


def count_lacking_lines(unsent: int, in_flight: int, lines_per_s: float, opening: float) -> float:
    """How many lines are missing until an engine has enough; 0: it has.

    `unsent`: of the slices that are open. `in_flight`: that are with it. `opening`: of slices that are being opened.
    """
    wanted = max(_LINES_MIN, _TIMES_IN_FLIGHT * in_flight, _LASTING_S * lines_per_s)
    return max(0.0, wanted - unsent - opening)
