"""When what waits will be done, if nothing else comes: engines in the order in which they will be used. Pure.

Owners share an engine equally, in tokens, and of one owner's batches the first in rank has all of his share. Batches
that would miss their deadlines that way, and need not, are served before all others: earliest deadline first, without
those for which there is no time any more. That is what dispatch does, but for grain: its owners take turns, and what is
in danger is served no sooner than it must be.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["Job", "forecast"]


class Job(NamedTuple):
    """What is left of one batch for one pool of engines."""

    batch: str
    owner: str
    rank: Any
    """Of an owner's jobs the one of the lowest rank goes first."""
    pool: frozenset[str]
    """Who does it; pools that have somebody in common have to be joined before."""
    work_s: float
    """How long the pool takes if it does nothing else."""
    left_s: float
    """Until the deadline."""
    tokens: float
    """In which owners share: not all take as long."""

    @property
    def token_s(self) -> float:
        """How long one of them takes."""
        return self.work_s / self.tokens if self.tokens else 0.0


def forecast(jobs: Iterable[Job]) -> dict[str, float]:
    """Batch -> seconds until its last job is done, however late that is."""
    pools: dict[frozenset[str], list[Job]] = {}
    for job in jobs:
        pools.setdefault(job.pool, []).append(job)
    done: dict[str, float] = {}
    for pool in pools.values():
        for job, done_s in _run(pool):
            done[job.batch] = max(done_s, done.get(job.batch, 0.0))
    return done


def _run(jobs: Sequence[Job]) -> list[tuple[Job, float]]:
    """Each job of one pool with when it is done."""
    shared = _share(jobs)
    urgent = _choose_urgent([job for job, done_s in shared if done_s > job.left_s])
    if not urgent:
        return shared
    done: list[tuple[Job, float]] = []
    passed_s = 0.0
    for job in urgent:
        passed_s += job.work_s
        done.append((job, passed_s))
    chosen = {id(job) for job in urgent}
    others = _share([job for job in jobs if id(job) not in chosen])
    return done + [(job, passed_s + done_s) for job, done_s in others]


def _choose_urgent(late: Iterable[Job]) -> list[Job]:
    """Of the jobs that would be late those that need not be, in the order of their deadlines."""
    chosen: list[Job] = []
    passed_s = 0.0
    for job in sorted(late, key=lambda job: job.left_s):
        chosen.append(job)
        passed_s += job.work_s
        if passed_s > job.left_s:
            longest = max(chosen, key=lambda job: job.work_s)
            chosen.remove(longest)
            passed_s -= longest.work_s
    return chosen


def _share(jobs: Iterable[Job]) -> list[tuple[Job, float]]:
    """Each job with when it is done if owners share equally.

    As long as he has work, every owner gets as many tokens as any other: so the jobs are done in the order of what
    their owners have had by then, and the time between two of them is what one token more for everybody costs.
    """
    owners: dict[str, list[Job]] = {}
    for job in jobs:
        owners.setdefault(job.owner, []).append(job)
    ends: list[tuple[float, int, Job, Job | None]] = []
    round_s = 0.0
    for queue in owners.values():
        had = 0.0
        queue.sort(key=lambda job: job.rank)
        round_s += queue[0].token_s
        for job, following in zip(queue, [*queue[1:], None], strict=True):
            had += job.tokens
            ends.append((had, len(ends), job, following))
    ends.sort()
    done: list[tuple[Job, float]] = []
    now_s = all_had = 0.0
    for had, _, job, following in ends:
        now_s += (had - all_had) * round_s
        all_had = had
        done.append((job, now_s))
        round_s += (following.token_s if following else 0.0) - job.token_s
    return done
