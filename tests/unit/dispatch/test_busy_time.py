"""How long a replica was busy: the union of its requests' times, whatever their order of beginning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.dispatch.busy_time import BusyTime


def measure(requests: list[tuple[int, int]], at_once: int = 1) -> float:
    """In order of their ends, so many of them at once."""
    busy = BusyTime()
    ordered = sorted(requests, key=lambda request: request[1])
    for first in range(0, len(ordered), at_once):
        started, ended = zip(*ordered[first : first + at_once], strict=True)
        busy.add(started, ended)
    return busy.total_s


@pytest.mark.parametrize(
    ("requests", "busy"),
    [
        ([], 0),
        ([(3, 5)], 2),
        ([(0, 4), (1, 5)], 5),
        ([(0, 1), (5, 6)], 2),
        ([(0, 1), (5, 6), (0, 10)], 10),
        ([(0, 1), (3, 4), (6, 7), (2, 8)], 7),
    ],
)
def test_idle_time_is_what_no_request_covers(requests: list[tuple[int, int]], busy: int) -> None:
    assert measure(requests) == busy


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=30), st.integers(1, 30))
def test_it_is_the_union_of_all_times(drawn: list[tuple[int, int]], at_once: int) -> None:
    requests = [(started, started + length) for started, length in drawn]
    seconds = {second for started, ended in requests for second in range(started, ended)}
    assert measure(requests, at_once) == len(seconds)
