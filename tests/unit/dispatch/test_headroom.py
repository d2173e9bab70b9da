"""What batches leave to live requests: nothing without them, all that is needed with them, and back again."""

import pytest

from backfill.dispatch.headroom import Headroom
from backfill.engines import FirstToken, Presence

LIMIT = 100
CEILING = 1000
TICK_S = 0.25


def first(at_s: float, duration_s: float, *, batches: int = 50, is_alone: bool = True) -> FirstToken:
    return FirstToken(at_s, duration_s, 1000, is_alone, batches)


def allow(headroom: Headroom, now_s: float, waiting: int = 0, ceiling: int = CEILING) -> int:
    return headroom.allow(now_s, LIMIT, ceiling, make_presence(waiting))


def make_presence(waiting: int = 0, running: int = 0) -> Presence:
    presence = Presence()
    presence.waiting, presence.running = waiting, max(waiting, running)
    return presence


def serve(headroom: Headroom, start_s: float, end_s: float, duration_s: float, *, batches: int = 50) -> float:
    """One live request after the other, each with its first token after so long."""
    now_s = start_s
    while now_s < end_s:
        headroom.note_arrival(now_s, 1)
        headroom.note_first_tokens([first(now_s + duration_s, duration_s, batches=batches)])
        now_s += 1.0
        headroom.tick(now_s, 1)
    return now_s


def test_without_live_requests_nothing_is_kept_free() -> None:
    headroom = Headroom()
    for second in range(1000):
        headroom.tick(float(second), 0)
        headroom.note_gauges(float(second), 0, 90, 50)
        assert allow(headroom, float(second)) == LIMIT
    assert not headroom.is_shared


def test_an_arrival_holds_lines_back_until_its_first_token() -> None:
    headroom = Headroom()
    headroom.note_arrival(10.0, 1)
    assert allow(headroom, 10.0, waiting=1) == 0
    assert allow(headroom, 10.1, waiting=1) == 0
    # The first token is there: batches have their share.
    assert 1 <= allow(headroom, 10.1) < LIMIT


def test_a_first_token_that_never_comes_does_not_hold_lines_back_for_ever() -> None:
    headroom = Headroom()
    headroom.note_arrival(10.0, 1)
    assert allow(headroom, 11.0, waiting=1) > 0


def test_the_share_shrinks_while_first_tokens_are_late_and_grows_while_they_are_not() -> None:
    headroom = Headroom()
    now_s = serve(headroom, 0.0, 20.0, 0.05, batches=0)
    before = allow(headroom, now_s)
    now_s = serve(headroom, now_s, now_s + 60.0, 0.5)
    late = allow(headroom, now_s)
    assert late < before / 3
    now_s = serve(headroom, now_s, now_s + 120.0, 0.05)
    assert allow(headroom, now_s) == LIMIT


def test_a_wait_behind_other_live_requests_is_not_the_batches_fault() -> None:
    headroom = Headroom()
    now_s = serve(headroom, 0.0, 20.0, 0.05, batches=0)
    before = headroom.share
    for second in range(50):
        headroom.note_first_tokens([first(now_s + second, 5.0, is_alone=False)])
    assert headroom.share == before


def test_a_single_odd_wait_changes_little() -> None:
    headroom = Headroom()
    now_s = serve(headroom, 0.0, 20.0, 0.05, batches=0)
    before = headroom.share
    headroom.note_first_tokens([first(now_s, 0.15)])
    assert headroom.share >= 0.8 * before


def test_the_room_is_taken_back_some_time_after_the_last_of_them() -> None:
    headroom = Headroom()
    now_s = serve(headroom, 0.0, 30.0, 0.3)
    # Held for a while: another may come.
    headroom.tick(now_s + 5.0, 0)
    assert headroom.is_shared
    now_s += 11.0
    steps = 0
    while allow(headroom, now_s) < LIMIT:
        before = allow(headroom, now_s)
        now_s += TICK_S
        headroom.tick(now_s, 0)
        assert allow(headroom, now_s) >= before
        steps += 1
        assert steps < 40
    assert steps


def test_what_was_learned_is_known_when_they_come_again() -> None:
    headroom = Headroom()
    now_s = serve(headroom, 0.0, 20.0, 0.05, batches=0)
    now_s = serve(headroom, now_s, now_s + 60.0, 0.5)
    learned = headroom.share
    for _ in range(100):
        now_s += 1.0
        headroom.tick(now_s, 0)
    assert headroom.share == 1.0
    headroom.note_arrival(now_s, 1)
    assert headroom.share == learned


@pytest.mark.parametrize(("slots", "left"), [(1, 1), (2, 1), (8, 6), (64, 61)])
def test_live_requests_keep_the_places_that_they_had_at_their_peak_up_to_a_quarter(slots: int, left: int) -> None:
    headroom = Headroom()
    headroom.share = headroom._learned = 1.0
    headroom.note_arrival(0.0, 3)
    assert headroom.allow(1.0, slots, slots, make_presence()) == left


def test_others_that_wait_in_the_engine_shrink_the_share_and_others_that_do_not_let_it_grow_to_half() -> None:
    headroom = Headroom()
    now_s = 0.0
    for _ in range(20):
        now_s += 1.0
        headroom.note_gauges(now_s, 5, 100, 40)
    queued = headroom.share
    assert queued < 0.1
    for _ in range(200):
        now_s += 1.0
        headroom.note_gauges(now_s, 5, 100, 1)
    assert headroom.share == pytest.approx(0.5, abs=0.02)
