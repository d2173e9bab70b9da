"""The circuit breaker: how long nothing is sent, what closes it, and what does not."""

import random

import pytest

from backfill.config import DispatchConfig
from backfill.dispatch.breaker import Breaker

POLICY = DispatchConfig(backoff_s=1.0, backoff_max_s=30.0, retry_after_max_s=600.0)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(POLICY, random.Random(1))


def test_pauses_double_up_to_the_longest_while_probes_fail(breaker: Breaker) -> None:
    now_s, pauses = 100.0, []
    for _ in range(80):
        breaker.note_outage(now_s, now_s)
        pauses.append(breaker.pause_left_s(now_s))
        now_s += pauses[-1]
    for number, pause_s in enumerate(pauses):
        ceiling_s = min(30.0, 2.0**number)
        assert ceiling_s / 2 <= pause_s <= ceiling_s
    # Not all servers that wait for one engine come back at the same moment.
    assert len(set(pauses[10:])) > 60


def test_after_an_outage_one_request_probes_until_one_is_answered(breaker: Breaker) -> None:
    seen = [breaker.is_probing]
    breaker.note_outage(100.0, 99.0)
    seen.append(breaker.is_probing)
    over_s = 100.0 + breaker.pause_left_s(100.0)
    breaker.note_reply(over_s)
    seen.append(breaker.is_probing)
    assert seen == [False, True, False]
    breaker.note_outage(over_s + 1, over_s + 1)
    assert breaker.pause_left_s(over_s + 1) <= 1.0, "the pauses begin anew"


def test_an_answer_to_what_was_sent_before_the_pause_closes_nothing(breaker: Breaker) -> None:
    breaker.note_outage(100.0, 99.0)
    breaker.note_reply(99.5)
    assert breaker.is_probing
    assert breaker.pause_left_s(100.0) > 0


def test_of_many_that_find_the_engine_gone_together_the_first_counts(breaker: Breaker) -> None:
    breaker.note_outage(100.0, 99.0)
    pause_s = breaker.pause_left_s(100.0)
    for _ in range(50):
        breaker.note_outage(100.1, 99.0)
    assert breaker.pause_left_s(100.0) == pause_s


@pytest.mark.parametrize(("asked_s", "obeyed_s"), [(0.0, 0.0), (0.25, 0.25), (45.0, 45.0), (9999.0, 600.0)])
def test_retry_after_is_obeyed_to_the_letter(breaker: Breaker, asked_s: float, obeyed_s: float) -> None:
    breaker.note_rate_limit(100.0, 99.0, asked_s)
    assert breaker.pause_left_s(100.0) == max(obeyed_s, -100.0)
    assert not breaker.is_probing, "the upstream said when it takes requests again: there is nothing to find out"


def test_a_shorter_retry_after_does_not_cut_a_longer_one(breaker: Breaker) -> None:
    breaker.note_rate_limit(100.0, 99.0, 20.0)
    breaker.note_rate_limit(101.0, 99.0, 1.0)
    assert breaker.pause_left_s(101.0) == 19.0


def test_an_upstream_that_says_no_time_is_asked_again_within_two_seconds(breaker: Breaker) -> None:
    now_s = 100.0
    for _ in range(40):
        breaker.note_rate_limit(now_s, now_s, None)
        assert breaker.is_probing
        assert 0 < breaker.pause_left_s(now_s) <= 2.0
        now_s += breaker.pause_left_s(now_s)
    assert breaker.pause_left_s(now_s) <= 0


def test_a_429_of_before_the_pause_does_not_lengthen_it(breaker: Breaker) -> None:
    breaker.note_rate_limit(100.0, 99.0, None)
    pause_s = breaker.pause_left_s(100.0)
    breaker.note_rate_limit(100.01, 99.0, None)
    assert breaker.pause_left_s(100.0) == pause_s


def test_five_losses_in_a_row_open_it_where_another_replica_is_at_hand(breaker: Breaker) -> None:
    for _ in range(4):
        breaker.note_loss(100.0, 99.0, has_alternative=True)
    assert breaker.pause_left_s(100.0) <= 0
    breaker.note_reply(99.0)
    for _ in range(4):
        breaker.note_loss(100.0, 99.0, has_alternative=True)
    assert breaker.pause_left_s(100.0) <= 0, "an answer between them ends the row"
    breaker.note_loss(100.0, 99.0, has_alternative=True)
    assert breaker.pause_left_s(100.0) > 0
    assert breaker.is_probing


def test_a_lost_probe_opens_it_again_for_longer(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.note_loss(100.0, 99.0, has_alternative=True)
    pauses, now_s = [], 100.0
    for _ in range(8):
        pauses.append(breaker.pause_left_s(now_s))
        now_s += pauses[-1]
        breaker.note_loss(now_s, now_s, has_alternative=True)
    assert pauses[-1] >= 15.0
    assert min(pauses) > 0


def test_the_only_replica_is_not_left_alone_for_losses(breaker: Breaker) -> None:
    for _ in range(100):
        breaker.note_loss(100.0, 99.0, has_alternative=False)
    assert breaker.pause_left_s(100.0) <= 0
    assert not breaker.is_probing
