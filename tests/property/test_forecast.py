"""What holds for every forecast, whatever waits."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.plan import Job, Need, Speed, forecast

X, Y = frozenset({"x"}), frozenset({"y"})
JOBS = st.lists(
    st.builds(
        Job,
        batch=st.text(min_size=1, max_size=9),
        owner=st.sampled_from("abc"),
        rank=st.integers(0, 3),
        pool=st.sampled_from([X, Y]),
        work_s=st.floats(0, 1000),
        left_s=st.floats(-100, 5000),
        tokens=st.integers(1, 10**6),
    ),
    max_size=12,
    unique_by=lambda job: job.batch,
)


@given(JOBS)
def test_engines_never_rest_while_there_is_work(jobs: list[Job]) -> None:
    done = forecast(jobs)
    assert done.keys() == {job.batch for job in jobs}
    for pool in (X, Y):
        mine = [job for job in jobs if job.pool == pool]
        if mine:
            assert math.isclose(max(done[job.batch] for job in mine), sum(job.work_s for job in mine), abs_tol=1e-6)
    for job in jobs:
        assert done[job.batch] >= job.work_s - 1e-6


@given(JOBS, st.data())
def test_an_owner_more_makes_nothing_of_others_ready_sooner_where_nothing_is_urgent(
    jobs: list[Job], data: st.DataObject
) -> None:
    calm = [job._replace(left_s=math.inf) for job in jobs]
    added = data.draw(JOBS.filter(bool))[0]._replace(batch="added", owner="d", left_s=math.inf)
    before, after = forecast(calm), forecast([*calm, added])
    assert all(after[job.batch] >= before[job.batch] - 1e-6 for job in calm)
    assert all(math.isclose(after[job.batch], before[job.batch]) for job in calm if job.pool != added.pool)


def test_owners_share_and_the_smaller_one_is_done_first() -> None:
    small = Job("small", "a", 0, X, 10.0, math.inf, 10)
    large = Job("large", "b", 0, X, 100.0, math.inf, 100)
    assert forecast([large, small]) == {"small": 20.0, "large": 110.0}


def test_owners_share_in_tokens_however_long_these_take() -> None:
    slow = Job("slow", "a", 0, X, 90.0, math.inf, 100)
    fast = Job("fast", "b", 0, X, 10.0, math.inf, 100)
    longer = Job("longer", "c", 0, X, 100.0, math.inf, 1000)
    assert forecast([slow, fast, longer]) == pytest.approx({"slow": 110.0, "fast": 110.0, "longer": 200.0})


def test_of_one_owner_the_first_in_rank_has_all() -> None:
    jobs = [Job(name, "a", rank, X, 10.0, math.inf, 10) for name, rank in (("second", 2), ("first", 1))]
    assert forecast(jobs) == {"first": 10.0, "second": 20.0}


def test_a_deadline_in_danger_goes_first_unless_there_is_no_time_for_it_anyway() -> None:
    urgent = Job("urgent", "a", 0, X, 10.0, 15.0, 10)
    hopeless = Job("hopeless", "c", 0, X, 50.0, 20.0, 50)
    large = Job("large", "b", 0, X, 100.0, math.inf, 100)
    assert forecast([large, urgent, hopeless]) == {"urgent": 10.0, "hopeless": 110.0, "large": 160.0}


def test_a_batch_on_two_pools_is_done_with_the_later_one() -> None:
    jobs = [Job("both", "a", 0, X, 10.0, math.inf, 10), Job("both", "a", 0, Y, 30.0, math.inf, 30)]
    assert forecast(jobs) == {"both": 30.0}


def observe(seconds: Callable[[Need], float], *stretches: Need) -> Speed:
    speed = Speed()
    for stretch in stretches:
        speed.observe(seconds(stretch), stretch)
    return speed


@given(st.floats(1e-5, 1e-3), st.floats(1e-5, 1e-2), st.floats(10, 1e5), st.floats(10, 1e5))
def test_work_like_that_which_was_seen_takes_as_long(
    prompt_s: float, answer_s: float, prompt: float, answer: float
) -> None:
    def seconds(need: Need) -> float:
        return need.prompt_tokens * prompt_s + need.completion_tokens * answer_s

    speed = observe(seconds, *[Need(prompt, answer)] * 5)
    assert speed.estimate_s(Need(3 * prompt, 3 * answer)) == pytest.approx(3 * seconds(Need(prompt, answer)), rel=1e-6)


def test_where_mixtures_differ_prompts_and_answers_are_told_apart() -> None:
    def seconds(need: Need) -> float:
        return need.prompt_tokens / 10_000 + need.completion_tokens / 4_000

    speed = observe(seconds, *[Need(40_000, 1_000), Need(2_000, 20_000), Need(20_000, 8_000)] * 10)
    for need in (Need(100_000, 0), Need(0, 100_000), Need(50_000, 50_000)):
        assert speed.estimate_s(need) == pytest.approx(seconds(need), rel=0.1)


def test_an_engine_that_became_slower_is_known_as_slow() -> None:
    speed = Speed()
    for tokens_per_s in [1000.0] * 200 + [100.0] * 200:
        speed.observe(10.0, Need(0, 10 * tokens_per_s))
    assert speed.estimate_s(Need(0, 1000)) == pytest.approx(10.0, rel=0.1)


def test_nothing_done_tells_nothing() -> None:
    speed = Speed()
    speed.observe(10.0, Need())
    speed.observe(0.0, Need(5, 5))
    assert (speed.is_known, speed.tokens_per_s) == (False, 0.0)
