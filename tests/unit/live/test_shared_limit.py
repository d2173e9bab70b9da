"""One limit of a key, kept by several processes that hear of each other now and then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.api_key import Caller
from backfill.config import LiveConfig
from backfill.live.limits import LiveLimits

ADA = Caller("ada")


class Processes:
    """Some of them, on one clock."""

    def __init__(self, count: int, requests: int = 0, tokens: int = 0) -> None:
        self.now_s = 1000.0
        config = LiveConfig(requests_per_minute=requests, tokens_per_minute=tokens)
        self.all = [LiveLimits(config, lambda: self.now_s) for _ in range(count)]
        self.exchange()

    def exchange(self, silence_s: float = 0.0) -> None:
        """Each hears what the others have let in."""
        told = {str(number): limits.tell_use() for number, limits in enumerate(self.all)}
        for number, limits in enumerate(self.all):
            limits.note_others({name: use for name, use in told.items() if name != str(number)}, silence_s)

    def let_in(self, process: int, most: int = 1000, tokens: int = 1) -> int:
        """How many of so many requests come in at once."""
        return sum(not self.all[process].admit(ADA, tokens).refusal for _ in range(most))

    def read_left(self, process: int) -> int:
        """What it says is left, with one request."""
        return int(self.all[process].admit(ADA, 1).headers["x-ratelimit-remaining-requests"])


def test_together_they_let_in_a_minute_s_worth_at_once() -> None:
    two = Processes(2, requests=60)
    assert [two.let_in(0), two.let_in(1)] == [30, 30]
    two.exchange()
    assert [two.let_in(0), two.let_in(1)] == [0, 0]
    two.now_s += 10
    assert sum(two.let_in(process) for process in (0, 1)) <= 20
    two.exchange()
    two.now_s += 50
    two.exchange()
    # What was let in beyond is paid back.
    assert two.let_in(0) + two.let_in(1) <= 60


def test_who_always_asks_the_same_one_has_the_whole_minute() -> None:
    two = Processes(2, requests=60)
    assert two.let_in(0) == 30
    two.exchange()
    assert two.let_in(0) == 30
    two.exchange()
    assert two.let_in(0) == 0


def test_without_others_nothing_is_held_back() -> None:
    assert Processes(1, requests=60).let_in(0) == 60


def test_who_hears_nothing_goes_on_alone() -> None:
    two = Processes(2, requests=60)
    assert two.let_in(0) == 30
    two.now_s += 5
    # Five more have come by then.
    assert two.let_in(0) == 30


def test_one_that_told_nothing_since_is_waited_for() -> None:
    two = Processes(2, requests=60)
    two.now_s += 1
    assert two.let_in(0) == 30
    two.exchange()
    two.now_s += 1
    assert two.let_in(0) == 30
    # The other one has said nothing for three seconds: what it let in meanwhile nobody knows.
    two.exchange(silence_s=3)
    assert two.let_in(0) == 0


def test_what_is_told_is_what_is_left_for_all() -> None:
    three = Processes(3, requests=60)
    assert three.read_left(0) == 59
    three.exchange()
    # Also of one that has not seen the key before.
    assert three.read_left(1) == 58
    three.exchange()
    assert three.read_left(2) == 57
    assert three.read_left(0) == 57


def test_tokens_are_shared_and_corrected_ones_too() -> None:
    two = Processes(2, tokens=1000)
    assert not two.all[0].admit(ADA, 400).refusal
    two.all[0].correct(ADA, -300)
    two.exchange()
    assert two.all[1].admit(ADA, 0).headers["x-ratelimit-remaining-tokens"] == "900"
    two.all[1].correct(ADA, 850)
    two.exchange()
    assert two.all[0].admit(ADA, 100).refusal


def test_a_request_larger_than_a_portion_comes_in_where_nothing_else_has() -> None:
    two = Processes(2, tokens=1000)
    assert not two.all[0].admit(ADA, 900).refusal
    assert two.all[0].admit(ADA, 50).refusal
    two.exchange()
    assert two.all[1].admit(ADA, 900).refusal


def test_a_process_that_begins_anew_is_heard_anew() -> None:
    two = Processes(2, requests=60)
    assert two.let_in(0, 20) == 20
    two.exchange()
    two.all[0] = LiveLimits(LiveConfig(requests_per_minute=60), lambda: two.now_s)
    assert two.let_in(0, 5) == 5
    two.exchange()
    assert two.read_left(1) == 60 - 25 - 1


@given(
    processes=st.integers(2, 6),
    per_minute=st.integers(1, 500),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 200), st.booleans()), max_size=40),
)
def test_the_excess_is_bounded_whoever_is_asked(
    processes: int, per_minute: int, steps: list[tuple[int, int, bool]]
) -> None:
    some = Processes(processes, requests=per_minute)
    began_s, taken = some.now_s, 0
    for process, wanted, hears in steps:
        taken += some.let_in(process % processes, wanted)
        if hears:
            some.now_s += 1
            some.exchange()
    flowed = per_minute * (some.now_s - began_s) / 60
    # A bucket, and what each may let in before it hears of the others.
    part = max(1.0, per_minute * max(1 / processes, 1 / 12))
    assert taken <= per_minute + flowed + processes * part + 1e-6


@pytest.mark.parametrize("count", [1, 2])
def test_keys_without_limits_are_not_told(count: int) -> None:
    some = Processes(count)
    some.let_in(0, 5)
    assert some.all[0].tell_use() == {}
