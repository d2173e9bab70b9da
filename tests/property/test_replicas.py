"""How many replicas there are: within their bounds, no more than needed, enough for deadlines, and no to and fro."""

from hypothesis import given
from hypothesis import strategies as st

from backfill.plan import Bounds, Demand, Descent, Sight, want_replicas
from bench.simulated.scaling import SimulatedBatch, scale

BOUNDS = Bounds(least=0, most=8, idle_s=120.0, clear_s=600.0, start_s=60.0)
DAY_S = 86_400.0

seconds = st.floats(0.0, 1e6)
all_bounds = st.builds(
    lambda least, more, idle_s, clear_s, start_s: Bounds(least, max(1, least + more), idle_s, clear_s, start_s),
    st.integers(0, 20),
    st.integers(0, 100),
    seconds,
    st.floats(1.0, 1e5),
    seconds,
)
all_demands = st.lists(st.builds(Demand, st.none() | seconds, st.floats(-1e5, 1e6)), max_size=20)
sights = st.builds(Sight, all_demands, st.integers(0, 120), st.integers(0, 120), st.integers(0, 120))


@given(all_bounds, sights)
def test_it_stays_within_its_bounds(bounds: Bounds, sight: Sight) -> None:
    assert bounds.least <= want_replicas(bounds, sight) <= bounds.most


@given(all_bounds, sights)
def test_nothing_waits_so_only_the_least_is_wanted(bounds: Bounds, sight: Sight) -> None:
    assert want_replicas(bounds, sight._replace(demands=())) == bounds.least


@given(all_bounds, sights, st.builds(Demand, seconds, seconds))
def test_more_work_never_wants_fewer(bounds: Bounds, sight: Sight, more: Demand) -> None:
    assert want_replicas(bounds, sight._replace(demands=[*sight.demands, more])) >= want_replicas(bounds, sight)


@given(all_bounds, sights)
def test_no_replica_is_wanted_that_would_have_no_turn(bounds: Bounds, sight: Sight) -> None:
    assert want_replicas(bounds, sight) <= max(bounds.least, 1, sight.occupied + sight.free_turns)


def test_something_waits_so_there_is_one() -> None:
    assert want_replicas(BOUNDS, Sight([Demand(0.1, DAY_S)], 0, 0, 1)) == 1
    assert want_replicas(BOUNDS, Sight([Demand(None, DAY_S)] * 50, 0, 0, 50)) == 1


def test_the_queue_is_to_be_cleared_in_time() -> None:
    assert want_replicas(BOUNDS, Sight([Demand(600.0, DAY_S)] * 5, 1, 1, 4)) == 5
    assert want_replicas(BOUNDS, Sight([Demand(600.0, DAY_S)] * 50, 1, 1, 49)) == 8


def test_a_deadline_in_danger_calls_for_more() -> None:
    # 500 s of work in 260 s: the one that is there does 260 of it, and others have 200 s each once they are ready.
    assert want_replicas(BOUNDS, Sight([Demand(250.0, 260.0)] * 2, 1, 1, 1)) == 2
    assert want_replicas(BOUNDS, Sight([Demand(50.0, 260.0)] * 10, 1, 1, 9)) == 3
    # None that could not be ready before it.
    assert want_replicas(BOUNDS, Sight([Demand(50.0, 40.0)] * 10, 1, 1, 9)) == 1


@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 8)), min_size=1, max_size=60), st.floats(0.0, 200.0))
def test_up_at_once_and_down_one_after_another_after_a_while(looks: list[tuple[float, int]], idle_s: float) -> None:
    descent, now_s, count = Descent(idle_s), 0.0, 0
    needed_at_s = 0.0
    for passed_s, wanted in looks:
        now_s += passed_s
        chosen = descent.choose(now_s, wanted, count)
        assert chosen >= min(wanted, count)
        if wanted >= count:
            assert chosen == wanted
            needed_at_s = now_s
        elif chosen < count:
            assert chosen == count - 1
            assert now_s - needed_at_s >= idle_s
        count = chosen


def test_the_next_one_goes_when_the_last_one_has_gone() -> None:
    descent = Descent(0.0)
    assert descent.choose(0.0, 0, 3) == 2
    assert descent.choose(1.0, 0, 2, is_stopping=True) == 2
    assert descent.choose(2.0, 0, 2) == 1


def test_a_large_queue_takes_all_and_leaves_none() -> None:
    batches = [SimulatedBatch(100.0, 300.0, DAY_S) for _ in range(200)]
    scaled = scale(BOUNDS, batches, 20_000.0, is_known=False)
    assert scaled.most == 8
    assert scaled.counts[-1][1] == 0
    assert scaled.missed == 0
    assert scaled.turnarounds == 1
    # What it cost beyond the work: starts, and the rest before each goes.
    assert scaled.replica_s < 1.05 * 200 * 300 + 8 * (BOUNDS.start_s + BOUNDS.idle_s + 10)


def test_small_batches_that_keep_coming_move_nothing() -> None:
    batches = [SimulatedBatch(100.0 * number, 20.0, DAY_S) for number in range(100)]
    scaled = scale(BOUNDS, batches, 12_000.0)
    assert scaled.counts == [(0.0, 1), (scaled.counts[1][0], 0)]


@given(st.lists(st.tuples(st.floats(0.0, 5_000.0), st.floats(10.0, 900.0)), min_size=1, max_size=30))
def test_deadlines_are_met_that_replicas_can_meet(given_batches: list[tuple[float, float]]) -> None:
    """Each has time for itself, a start and its wait in the worst queue that eight replicas clear."""
    batches = [
        SimulatedBatch(created_s, work_s, created_s + BOUNDS.start_s + 2 * work_s + 900.0 + 30.0 * 900.0 / 8)
        for created_s, work_s in given_batches
    ]
    scaled = scale(BOUNDS, batches, 20_000.0)
    assert scaled.missed == 0
    assert scaled.counts[-1][1] == 0
