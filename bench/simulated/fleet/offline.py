"""The fewest lines that any order leaves undone: earliest deadline first, by replicas that share every line evenly.

Each line is a job of its own that takes equally long. For such jobs no order gets more of them done in time than that
which always takes, of those whose time is not over, the one with the earliest deadline; knowing what is to come does
not help it. Here nothing costs it time: no slice, turn or start of a replica, and all replicas work on any batch.
"""

import heapq
from collections.abc import Sequence

from bench.simulated.fleet.load import Job

__all__ = ["count_missed"]

_LINES_MIN = 0.5


def count_missed(jobs: Sequence[Job], capacity: Sequence[tuple[float, float]]) -> tuple[float, int]:
    """Lines that are undone at their deadlines, and the batches that they belong to.

    `capacity`: from when on how many lines are done in a second, in the order of time; before that there are none.
    """
    coming = sorted(jobs, key=lambda job: job.comes_s)
    changes = [*capacity, (float("inf"), 0.0)]
    here: list[tuple[float, int, float]] = []
    """Deadline, number and lines left of those that have come."""
    now_s, speed, next_job, next_change = 0.0, 0.0, 0, 0
    missed_lines, missed_batches = 0.0, 0
    while here or next_job < len(coming):
        if next_job < len(coming) and coming[next_job].comes_s <= now_s:
            job = coming[next_job]
            heapq.heappush(here, (job.due_s, next_job, float(job.lines)))
            next_job += 1
            continue
        if changes[next_change][0] <= now_s:
            speed = changes[next_change][1]
            next_change += 1
            continue
        until_s = min(changes[next_change][0], coming[next_job].comes_s if next_job < len(coming) else float("inf"))
        if not here:
            now_s = until_s
            continue
        due_s, number, lines = heapq.heappop(here)
        done_s = lines / speed if speed else float("inf")
        until_s = max(now_s, min(until_s, due_s, now_s + done_s))
        lines -= (until_s - now_s) * speed
        now_s = until_s
        if lines > _LINES_MIN:
            if now_s >= due_s:
                missed_lines, missed_batches = missed_lines + lines, missed_batches + 1
            else:
                heapq.heappush(here, (due_s, number, lines))
    return missed_lines, missed_batches
