"""Limits of live traffic: what a minute gives, what is told of it, and that keys are counted apart."""

from hypothesis import given
from hypothesis import strategies as st

from backfill.api_key import Caller, KeyLimits
from backfill.config import LiveConfig
from backfill.live.limits import LiveLimits
from backfill.live.token_bucket import TokenBucket


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make(clock: Clock, requests: int = 0, tokens: int = 0) -> LiveLimits:
    return LiveLimits(LiveConfig(requests_per_minute=requests, tokens_per_minute=tokens), clock)


def test_without_limits_nothing_is_told() -> None:
    limits = make(Clock())
    for _ in range(1000):
        assert limits.admit(Caller("a"), 10**9).headers == {}
    assert not limits.counts_tokens(Caller("a"))


def test_a_minute_gives_what_it_says_and_refuses_the_next() -> None:
    clock = Clock()
    limits = make(clock, requests=60)
    for left in range(59, -1, -1):
        admission = limits.admit(Caller("a"), 5)
        assert admission.headers["x-ratelimit-remaining-requests"] == str(left)
        assert not admission.refusal
    refused = limits.admit(Caller("a"), 5)
    assert "60 requests a minute, 0 left" in refused.refusal
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
    clock.now_s += 1
    assert not limits.admit(Caller("a"), 5).refusal
    assert limits.admit(Caller("a"), 5).refusal


def test_a_refused_request_takes_nothing() -> None:
    clock = Clock()
    limits = make(clock, requests=10, tokens=100)
    assert not limits.admit(Caller("a"), 90).refusal
    refused = limits.admit(Caller("a"), 30)
    assert "about 30 asked for" in refused.refusal
    assert refused.headers["x-ratelimit-remaining-requests"] == "9"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "10"
    assert refused.headers["x-ratelimit-reset-tokens"] == "54s"


def test_tokens_are_corrected_both_ways() -> None:
    clock = Clock()
    limits = make(clock, tokens=100)
    limits.admit(Caller("a"), 80)
    limits.correct(Caller("a"), -70)
    assert limits.admit(Caller("a"), 0).headers["x-ratelimit-remaining-tokens"] == "90"
    limits.correct(Caller("a"), 150)
    # 60 tokens too much: until they are paid back there is nothing.
    assert limits.admit(Caller("a"), 0).refusal
    clock.now_s += 36.1
    assert not limits.admit(Caller("a"), 0).refusal


def test_a_request_larger_than_the_bucket_waits_for_a_full_one() -> None:
    limits = make(Clock(), tokens=100)
    assert not limits.admit(Caller("a"), 500).refusal
    assert limits.admit(Caller("a"), 500).refusal


def test_keys_are_counted_apart_and_have_their_own_limits() -> None:
    limits = make(Clock(), requests=1)
    own = Caller("a", key_id="key_1", limits=KeyLimits(requests_per_minute=2))
    assert not limits.admit(Caller("a"), 0).refusal
    assert limits.admit(Caller("a"), 0).refusal
    assert not limits.admit(own, 0).refusal
    assert not limits.admit(own, 0).refusal
    assert limits.admit(own, 0).refusal
    unlimited = Caller("a", key_id="key_2", limits=KeyLimits(requests_per_minute=0))
    assert limits.admit(unlimited, 0).headers == {}


def test_a_changed_limit_holds_at_once() -> None:
    limits = make(Clock(), requests=1)
    assert not limits.admit(Caller("a", key_id="key_1"), 0).refusal
    raised = Caller("a", key_id="key_1", limits=KeyLimits(requests_per_minute=5))
    assert limits.admit(raised, 0).headers["x-ratelimit-remaining-requests"] == "4"


@given(
    per_minute=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 500)), max_size=50),
)
def test_never_more_than_a_full_bucket_and_what_flowed_in(per_minute: int, steps: list[tuple[float, int]]) -> None:
    bucket, now_s, taken = TokenBucket(per_minute, 0.0), 0.0, 0
    for passed_s, wanted in steps:
        now_s += passed_s
        amount = min(wanted, per_minute)
        wait_s = bucket.wait_s(amount, now_s)
        if wait_s > 0:
            # What it says is enough.
            now_s += wait_s + 1e-6
            assert bucket.wait_s(amount, now_s) == 0
        bucket.take(amount, now_s)
        taken += amount
        assert taken <= per_minute * (1 + now_s / 60) + 1e-3
