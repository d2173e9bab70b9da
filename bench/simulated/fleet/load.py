"""What comes, and when: batches of many sizes and owners, most with a day of time, and a rush with minutes."""

import random
from typing import NamedTuple

__all__ = ["Job", "Load", "draw_jobs"]

_DAY_S = 86_400.0
_SPREAD = 1.5
"""Of the logarithm of a batch's lines: the middle one of a mean of 50,000 has 16,000, and one of a hundred 500,000."""
_RUSH_AT = 0.5
_RUSH_LASTS = 0.1
"""Parts of the time in which batches come."""
_RUSH_WINDOWS_S = (300.0, 1200.0)
_TIGHT_WINDOWS_S = (3_600.0, 7_200.0)
_TIGHT_SHARE = 0.1


class Load(NamedTuple):
    """How much comes, and how much of it in a rush in which there is too little time for all."""

    batches: int
    lines: int
    """Of all batches together."""
    owners: int
    lines_per_s: float
    """What all replicas do together."""
    busy: float = 0.75
    """They would be so much of the time in which batches come."""
    rush: float = 0.3
    """This share of the lines comes in a tenth of the time, and has 5 to 20 minutes."""


class Job(NamedTuple):
    """A batch: whose it is, how large, when it comes and until when there is time."""

    id: str
    owner: str
    lines: int
    comes_s: float
    due_s: float


def draw_jobs(load: Load, seed: int) -> list[Job]:
    """In the order in which they come."""
    dice = random.Random(seed)
    drawn = [dice.lognormvariate(0.0, _SPREAD) for _ in range(load.batches)]
    each = load.lines / sum(drawn)
    span_s = load.lines / (load.lines_per_s * load.busy)
    left_of_rush = load.rush * load.lines
    jobs: list[Job] = []
    for number, size in enumerate(drawn):
        lines = max(1, round(size * each))
        is_of_rush = left_of_rush > 0 and dice.random() < load.rush
        if is_of_rush:
            left_of_rush -= lines
        comes_s, window_s = _draw_times(dice, span_s, is_of_rush=is_of_rush)
        # A few owners send much, and many a little.
        owner = f"owner-{int(load.owners * dice.random() ** 2):03}"
        jobs.append(Job(f"batch-{number:06}", owner, lines, comes_s, comes_s + window_s))
    return sorted(jobs, key=lambda job: job.comes_s)


def _draw_times(dice: random.Random, span_s: float, *, is_of_rush: bool) -> tuple[float, float]:
    """When it comes, and its window."""
    if is_of_rush:
        return span_s * (_RUSH_AT + _RUSH_LASTS * dice.random()), dice.uniform(*_RUSH_WINDOWS_S)
    window_s = dice.uniform(*_TIGHT_WINDOWS_S) if dice.random() < _TIGHT_SHARE else _DAY_S
    return span_s * dice.random(), window_s
