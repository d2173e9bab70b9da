"""The fewest lines that any order leaves undone: earliest deadline first, by replicas that share every line evenly.

Each line is a job of its own that takes equally long. For such jobs no order gets more of them done in time than that
which always takes, of those whose time is not over, the one with the earliest deadline; knowing what is to come does
not help it. Here nothing costs it time: no slice, turn or start of a replica, and all replicas work on any batch.
"""

import heapq
from collections.abc import Sequence

from bench.simulated.fleet.load import Job

__all__ = ["count_late", "count_missed"]

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


def count_late(jobs: Sequence[Job], lines_per_s: float) -> int:
    """The batches that are late in an order that could be had if all were known before, with all replicas up.

    The earliest deadline always goes first, without those batches that keep another from being in time: whenever one
    would be late, the largest of those that are to blame is left out, until none is. That is the fewest where all come
    at once (Moore and Hodgson), and close to it otherwise.
    """
    kept = sorted(jobs, key=lambda job: job.comes_s)
    left_out = 0
    while (blamed := _find_blamed(kept, lines_per_s)) is not None:
        kept.remove(blamed)
        left_out += 1
    return left_out


def _find_blamed(jobs: Sequence[Job], lines_per_s: float) -> Job | None:
    """The largest of those because of which the first late one is late; None: none is. `jobs` as they come."""
    here: list[tuple[float, int, float]] = []
    done: list[tuple[float, float, Job]] = []
    """From when until when which one was done."""
    now_s, coming = 0.0, 0
    while here or coming < len(jobs):
        if not here:
            now_s = max(now_s, jobs[coming].comes_s)
        while coming < len(jobs) and jobs[coming].comes_s <= now_s:
            heapq.heappush(here, (jobs[coming].due_s, coming, float(jobs[coming].lines)))
            coming += 1
        due_s, number, lines = heapq.heappop(here)
        next_s = jobs[coming].comes_s if coming < len(jobs) else float("inf")
        until_s = min(now_s + lines / lines_per_s, next_s)
        done.append((now_s, until_s, jobs[number]))
        lines -= (until_s - now_s) * lines_per_s
        now_s = until_s
        if lines > _LINES_MIN:
            heapq.heappush(here, (due_s, number, lines))
        elif now_s > due_s:
            return max(_list_blamed(done, due_s), key=lambda job: job.lines)
    return None


def _list_blamed(done: Sequence[tuple[float, float, Job]], due_s: float) -> list[Job]:
    """What was done without a pause, and is due no later, before what was due then was done too late."""
    blamed: list[Job] = []
    began_s = done[-1][1]
    for from_s, until_s, job in reversed(done):
        if until_s < began_s or job.due_s > due_s:
            break
        blamed.append(job)
        began_s = from_s
    return blamed
