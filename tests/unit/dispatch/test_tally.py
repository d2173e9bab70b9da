"""Counts of one replica, and the rates over its last seconds."""

import pytest

from backfill.batch import Usage
from backfill.dispatch.tally import Tally
from tests.support.feeding import make_replies


def test_replies_and_tokens_add_up() -> None:
    tally = Tally()
    tally.add(make_replies(Usage(10, 5, 2), 1.0))
    tally.add(make_replies(Usage(20, 7, 0), 1.0))
    assert (tally.answered, tally.prompt_tokens, tally.completion_tokens, tally.cached_tokens) == (2, 30, 12, 2)


def test_the_duration_follows_what_was_seen_last() -> None:
    tally = Tally()
    tally.add(make_replies(Usage(), 2.0))
    assert tally.duration_s == 2.0
    for _ in range(200):
        tally.add(make_replies(Usage(), 8.0))
    assert tally.duration_s == pytest.approx(8.0, rel=0.01)


def test_rates_are_those_of_the_last_five_seconds() -> None:
    tally = Tally()
    tally.mark(0.0)
    assert tally.requests_per_s == 0.0
    for tick in range(1, 41):
        tally.add(make_replies(Usage(0, 30, 0), 1.0))
        tally.mark(tick * 0.25)
    assert tally.requests_per_s == pytest.approx(4.0)
    assert tally.completion_tokens_per_s == pytest.approx(120.0)
    for tick in range(41, 62):
        tally.mark(tick * 0.25)
    assert tally.requests_per_s == 0.0, "what was answered longer ago counts no more"


def test_two_marks_at_one_moment_do_no_harm() -> None:
    tally = Tally()
    tally.mark(1.0)
    tally.add(make_replies(Usage(), 1.0))
    tally.mark(1.0)
    tally.mark(2.0)
    assert tally.requests_per_s == 1.0
