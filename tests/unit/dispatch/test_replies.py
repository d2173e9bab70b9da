"""Replies that are learned from together teach the same as one after the other."""

from array import array
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import AUDIO_TOKENS_PER_S, Usage
from backfill.dispatch.concurrency_climb import Climb
from backfill.dispatch.pace import Pace
from backfill.dispatch.replies import Replied, Replies
from backfill.dispatch.tally import Tally
from backfill.dispatch.work_left import Ratios, WorkLeft
from backfill.plan import Need

POOL = frozenset({"a"})
heard = st.builds(Usage, st.just(0), st.just(0), st.just(0), st.integers(40, 9000))
usages = st.builds(Usage, st.integers(0, 9), st.integers(1, 9), st.just(0)) | heard


def test_what_came_is_summed_up() -> None:
    replies = Replies([(1.0, 3.0, Usage(10, 5, 2)), (2.0, 3.5, Usage(1, 2, 0))])
    assert (replies.count, replies.sum_s, replies.last_s, replies.usage) == (2, 3.5, 3.5, Usage(11, 7, 2))
    assert (replies.started_s, replies.durations_s, replies.work) == ((1.0, 2.0), (2.0, 1.5), (5, 2))


def test_the_moving_mean_begins_with_the_first_and_follows_the_last() -> None:
    replies = Replies([(0.0, 2.0, Usage()), (0.0, 4.0, Usage())])
    assert replies.follow(0.0) == 3.0
    alike = Replies([(0.0, 2.0, Usage())] * 3)
    one_by_one = 1.0
    for _ in range(3):
        one_by_one = Replies([(0.0, 2.0, Usage())]).follow(one_by_one)
    assert alike.follow(1.0) == pytest.approx(one_by_one)


@given(st.lists(usages, min_size=1, max_size=20))
def test_one_turns_replies_count_as_if_they_had_come_alone(drawn: list[Usage]) -> None:
    replied: list[Replied] = [(0.1 * number, 5.0, usage) for number, usage in enumerate(drawn)]
    together, alone = (Tally(), Climb(1, 1)), (Tally(), Climb(1, 1))
    _note(together, Replies(replied))
    for one in replied:
        _note(alone, Replies([one]))
    assert _describe(together[0]) == pytest.approx(_describe(alone[0]))
    assert together[1]._now.estimate(10.0, 4) == pytest.approx(alone[1]._now.estimate(10.0, 4), nan_ok=True)


def test_what_was_sent_before_a_measurement_began_counts_only_as_ended() -> None:
    climb = Climb(100, 10)
    climb._now.since_s = 2.0
    climb.note_replies(Replies([(1.0, 3.0, Usage(0, 5)), (2.0, 3.0, Usage(0, 7))]))
    seen = climb._now
    assert (seen.replies, seen.work, seen.duration_s) == (1, 7, 1.0)
    assert (seen.ended, seen.ended_work) == (2, 12)


@given(st.lists(st.tuples(st.integers(0, 2), usages), max_size=40))
def test_what_is_left_is_what_was_not_done_model_by_model(drawn: list[tuple[int, Usage]]) -> None:
    columns = {
        "models": array("I", [model for model, _ in drawn]),
        "answer_tokens": array("I", range(len(drawn))),
        "token_estimates": array("I", range(3, 3 + 2 * len(drawn), 2)),
    }
    needs = {model: Need(10_000.0, 20_000.0) for model in (0, 1)}
    work = WorkLeft(cast("Any", type("Index", (), columns)), needs)
    left = dict(needs)
    for line, (model, usage) in enumerate(drawn):
        work.note(line, usage)
        if model in left:
            left[model] = Need(left[model].prompt_tokens - line - 3, left[model].completion_tokens - line)
    for model in needs:
        work.set_pool(model, frozenset({str(model)}))
    pools = {pool: Ratios() for pool in work.pools}
    found = {pool: work._parts[int(next(iter(pool)))].left for pool in pools}
    work.sum_up(pools)
    assert {int(next(iter(pool))): Need(*left_there) for pool, left_there in found.items()} == left


def _note(seen: tuple[Tally, Climb], replies: Replies) -> None:
    tally, climb = seen
    tally.add(replies)
    climb.note_replies(replies)


def _describe(tally: Tally) -> list[float]:
    counts = [tally.answered, tally.prompt_tokens, tally.completion_tokens, tally.cached_tokens, tally.audio_ms]
    return [*counts, tally.busy.total_s]


def test_audio_counts_as_work_where_tokens_do() -> None:
    half_a_minute, pool = Usage(audio_ms=30_000), frozenset({"ear"})
    tally, climb = Tally(), Climb(100, 10)
    pace = Pace(tally)
    assert Replies([(0.0, 1.0, half_a_minute)]).work == (30 * AUDIO_TOKENS_PER_S,)
    for second in range(12):
        replies = Replies([(second - 1.0, float(second), half_a_minute)])
        tally.add(replies)
        climb.note_replies(replies)
        pace.tick(float(second), 1, is_full=True)
    assert climb._has_tokens
    # One clip a second.
    assert pace.speed.tokens_per_s == pytest.approx(30 * AUDIO_TOKENS_PER_S)

    columns = {
        "models": array("I", [0] * 100),
        "answer_tokens": array("I", [0] * 100),
        "token_estimates": array("I", [25] * 100),
    }
    work = WorkLeft(cast("Any", type("Index", (), columns)), {0: Need(2500.0, 0.0)})
    work.set_pool(0, pool)
    for line in range(50):
        work.note(line, half_a_minute)
    (left,) = work.sum_up({}).values()
    # Fifty clips are left, each as long as those before: the lines themselves said next to nothing of that.
    assert left.prompt_tokens == pytest.approx(50 * 30 * AUDIO_TOKENS_PER_S, rel=0.2)
