"""What is held against the misses of the dispatcher: no order can beat the bound, and the offline order can be had."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.service.deadlines import Job, bound_misses, draw_jobs, find_misses, run_jobs

JOBS = st.lists(
    st.builds(
        lambda comes, work, spare: Job(float(comes), float(work), float(comes + work + spare), work),
        st.integers(0, 12),
        st.integers(1, 6),
        st.integers(0, 6),
    ),
    max_size=7,
)


def fits(jobs: tuple[Job, ...]) -> bool:
    """Whether all can be done in time: the work of no stretch of time is more than the stretch."""
    for start_s in {job.comes_s for job in jobs}:
        for end_s in {job.due_s for job in jobs}:
            inside = [job.work_s for job in jobs if job.comes_s >= start_s and job.due_s <= end_s]
            if sum(inside) > max(0.0, end_s - start_s):
                return False
    return True


@settings(deadline=None)
@given(JOBS)
def test_the_best_order_lies_between_the_bound_and_the_offline_order(jobs: list[Job]) -> None:
    best = next(missed for missed in range(len(jobs) + 1) if any(map(fits, combinations(jobs, len(jobs) - missed))))
    assert bound_misses(jobs) <= best <= find_misses(jobs)


@pytest.mark.parametrize("seed", range(2))
def test_the_dispatcher_meets_every_deadline_where_there_is_time(seed: int) -> None:
    drawn = draw_jobs(12, 10.0, seed)
    jobs = [job._replace(comes_s=3 * job.comes_s, due_s=3 * job.comes_s + 4 * job.work_s + 60) for job in drawn]
    assert bound_misses(jobs) == 0
    assert run_jobs(jobs, seed) == 0
