"""The number in flight that is found, on simulated engines in virtual time: the same figures in every run."""

from dataclasses import replace
from functools import cache

import pytest

from backfill.batch import Usage
from backfill.dispatch.concurrency import ConcurrencyController
from backfill.engines import Gauges
from backfill.status import Bottleneck
from bench.found_concurrency import CASES, FILLING, Comparison, compare, run_case, seconds_to_fill
from tests.support.feeding import make_replies

NO_GAUGES = Gauges()


@cache
def compare_case(name: str, seed: int) -> Comparison:
    return compare(CASES[name], seed)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", list(CASES))
def test_the_found_number_does_as_much_as_the_best_fixed_one(name: str, seed: int) -> None:
    assert compare_case(name, seed).ratio >= 0.95


@pytest.mark.parametrize("name", ["llamacpp_gauges", "vllm_gauges", "sglang_gauges_full_cache", "halved_gauges"])
def test_with_gauges_the_engines_queue_stays_short(name: str) -> None:
    found = compare_case(name, 1)
    assert 0 < found.queued <= 0.2 * found.limit


@pytest.mark.parametrize("gauges", [None, "vllm"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_room_for_2000_at_2_seconds_is_full_within_10(gauges: str | None, seed: int) -> None:
    filled_s = seconds_to_fill(replace(FILLING, gauges=gauges), seed)
    assert filled_s is not None
    assert filled_s <= 10


def test_8_of_8_slots_are_used_and_the_ceiling_is_never_passed() -> None:
    case = replace(CASES["llamacpp"], ceiling=8, duration_s=120.0)
    run = run_case(case, ConcurrencyController(8, 16), 1)
    # A probe now and then asks whether fewer do as well.
    assert run.mean_limit(60.0, 120.0) >= 7
    assert run.history[-1].limit == 8
    assert all(1 <= one.limit <= 8 for one in run.history)


def test_a_rate_limit_is_named_and_answered_with_few_in_flight() -> None:
    run = run_case(CASES["rate_limit_retry_after"], ConcurrencyController(256, 16), 1)
    assert run.history[-1].bottleneck is Bottleneck.UPSTREAM_LIMIT
    assert run.mean_limit(300.0, 600.0) <= 8


def test_an_engine_that_gives_no_more_is_named() -> None:
    run = run_case(CASES["vllm_gauges"], ConcurrencyController(1_024, 16), 1)
    assert run.history[-1].bottleneck is Bottleneck.ENGINE


def test_a_ceiling_below_what_the_engine_takes_is_named() -> None:
    run = run_case(replace(CASES["vllm_gauges"], duration_s=60.0), ConcurrencyController(64, 16), 1)
    assert run.history[-1].limit == 64
    assert run.history[-1].bottleneck is Bottleneck.CEILING


@pytest.mark.parametrize("gauges", [NO_GAUGES, Gauges(running=16, waiting=0, kv_cache_use=0.1)])
def test_idle_changes_nothing(gauges: Gauges) -> None:
    controller = ConcurrencyController(64, 16)
    for tick in range(400):
        controller.tick(tick / 4, 16, gauges, has_work=False)
        controller.note_replies(make_replies(Usage(0, 10), 0.05, tick / 4 + 0.1))
    assert controller.limit == 16
    assert controller.bottleneck is Bottleneck.WORK


def test_rejections_never_shrink_it_below_what_is_answered_all_the_while() -> None:
    controller = ConcurrencyController(200, 100)
    for tick in range(1, 1_200):
        now_s = tick / 4
        controller.note_replies(make_replies(Usage(0, 10), 2.0, now_s))
        controller.note_rejection(now_s)
        controller.tick(now_s, 100, NO_GAUGES, has_work=True)
    # Four answers a second of 2 s each.
    assert controller.limit == 8


def test_one_rejection_is_no_sign() -> None:
    controller = ConcurrencyController(64, 16)
    controller.note_rejection(0.9)
    controller.tick(1.0, 16, NO_GAUGES, has_work=True)
    assert controller.limit == 16


def test_rejections_beside_answers_shrink_by_a_tenth_a_second() -> None:
    controller = ConcurrencyController(200, 100)
    controller.tick(0.0, 100, Gauges(running=90, waiting=15), has_work=True)
    found = []
    for tick in range(1, 5):
        now_s = tick / 4
        controller.note_replies(make_replies(Usage(0, 10), 0.2, now_s))
        controller.note_rejection(now_s)
        controller.tick(now_s, 100, NO_GAUGES, has_work=True)
        found.append(controller.limit)
    assert found == [100, 90, 90, 90]


def test_while_only_rejections_come_one_asks_and_an_answer_opens_again() -> None:
    controller = ConcurrencyController(64, 16)
    for tick in range(1, 80):
        controller.note_replies(make_replies(Usage(0, 10), 2.0, tick / 4))
        controller.tick(tick / 4, 16, NO_GAUGES, has_work=False)
    for tick in range(80, 100):
        controller.note_rejection(tick / 4)
        controller.note_rejection(tick / 4)
        controller.tick(tick / 4, 4, NO_GAUGES, has_work=True)
    assert controller.limit == 1
    controller.note_replies(make_replies(Usage(0, 10), 2.0, 25.0))
    assert controller.limit > 4
