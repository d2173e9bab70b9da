"""Feeders make room for live requests, on a clock that jumps: at once, as long as needed, and learn nothing wrong."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
import structlog

from backfill.engines import Gauges, Presence
from backfill.status import Bottleneck
from bench.service.arrivals import percentile
from bench.service.live_simulated import LLAMACPP, OPENVINO, VLLM, Modelled, Side, Traffic, run_simulated
from bench.simulated.clock import run_virtual
from tests.support.feeding import FakeReplica, feeding, group_of, make_feeder, make_lane, make_limits, make_turn

PLACES = 8


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    run_virtual(coroutine)


def load(replica: FakeReplica) -> Any:
    """A feeder with more lines than it can send in the test, and the live requests at its replica."""
    feeder, presence = make_feeder(replica), Presence()
    feeder.make_room_for(presence)
    group = group_of(range(50_000))
    lane = make_lane(make_turn(group), [group], [replica])
    feeder.offer(lane)
    return feeder, presence


def test_no_line_is_sent_while_a_live_request_waits_for_its_first_token() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(PLACES), duration_s=0.05)
        feeder, presence = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(2.0)
            assert feeder.in_flight == PLACES
            visit = presence.enter(1000, is_stream=True)
            before = len(replica.sent)
            await asyncio.sleep(0.1)
            # Within a tenth of a second: what was in flight came back, and nothing followed.
            assert (len(replica.sent), feeder.in_flight) == (before, 0)
            visit.note_first_token()
            await asyncio.sleep(1.0)
            assert len(replica.sent) > before
            assert 0 < feeder.in_flight < PLACES
            visit.leave()
            await asyncio.sleep(60.0)
            assert feeder.in_flight == PLACES

    run(check())


def test_free_places_are_filled_one_by_one() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(64), duration_s=0.2)
        feeder, presence = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(2.0)
            visit = presence.enter(1000, is_stream=True)
            await asyncio.sleep(0.24)
            assert feeder.in_flight == 0
            visit.note_first_token()
            await asyncio.sleep(0)
            since_s = asyncio.get_running_loop().time()
            await asyncio.sleep(1.0)
            sent_at_s = [at_s for at_s in replica.sent_at_s if at_s >= since_s]
            assert len(sent_at_s) > 20
            # A live request that came at any of these moments would have met one prompt, not thirty.
            assert len(set(sent_at_s[:20])) == 20

    run(check())


def test_without_live_requests_the_same_lines_go_out_at_the_same_times() -> None:
    async def send(*, follows: bool) -> list[float]:
        replica = FakeReplica(limits=make_limits(PLACES), duration_s=0.07)
        feeder, presence = load(replica)
        if not follows:
            feeder.live.follow(Presence(), lambda: 0, lambda: None)
        async with feeding(feeder):
            await asyncio.sleep(10.0)
        assert presence.running == 0
        return replica.sent_at_s

    assert run_virtual(send(follows=True)) == run_virtual(send(follows=False))


def test_the_limit_is_not_learned_anew_from_what_live_requests_leave() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(256, first_concurrency=256), duration_s=0.5)
        feeder, presence = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(20.0)
            limit = feeder._controller.limit
            for _ in range(120):
                visit = presence.enter(1000, is_stream=True)
                await asyncio.sleep(0.3)
                visit.note_first_token()
                visit.leave()
                await asyncio.sleep(0.2)
            assert feeder.in_flight < limit
            assert feeder._controller.limit == limit

    run(check())


def test_status_and_bottleneck_tell_of_it_and_the_log_once() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(PLACES), duration_s=0.05)
        feeder, presence = load(replica)
        with structlog.testing.capture_logs() as logs:
            async with feeding(feeder):
                await asyncio.sleep(2.0)
                assert (feeder.status.live_in_flight, feeder.status.batch_limit) == (0, None)
                visit = presence.enter(1000, is_stream=True)
                visit.note_first_token()
                await asyncio.sleep(5.0)
                status = feeder.status
                assert status.live_in_flight == 1
                assert status.batch_limit is not None
                assert status.batch_limit < status.concurrency_limit == PLACES
                assert status.bottleneck is Bottleneck.LIVE_TRAFFIC
                visit.leave()
                await asyncio.sleep(60.0)
                assert feeder.status.batch_limit is None
        told = [entry["event"] for entry in logs if "live" in entry["event"]]
        assert told == ["batches make room for live requests", "batches take back what live requests had"]

    run(check())


def test_others_that_only_gauges_show_are_made_room_for() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(PLACES), duration_s=0.05)
        foreign = 0

        async def read_gauges() -> Gauges:
            return Gauges(running=PLACES + foreign, waiting=0, foreign=foreign)

        replica.read_gauges = read_gauges  # type: ignore[method-assign]
        feeder, _ = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(5.0)
            assert feeder.in_flight == PLACES
            foreign = 3
            await asyncio.sleep(3.0)
            assert feeder.in_flight <= PLACES // 2
            assert feeder.status.live_in_flight == 3
            foreign = 0
            await asyncio.sleep(60.0)
            assert feeder.in_flight == PLACES

    run(check())


def compare(traffic: Traffic) -> tuple[Side, Side]:
    return run_simulated(traffic, with_batch=False), run_simulated(traffic, with_batch=True)


@pytest.mark.parametrize("is_foreign", [False, True], ids=["ours", "foreign"])
def test_beside_a_simulated_engine_they_feel_little_and_batches_get_most_of_the_rest(*, is_foreign: bool) -> None:
    traffic = Traffic(rate_per_s=2.0, duration_s=100.0, seed=2, is_foreign=is_foreign)
    alone, beside = compare(traffic)
    whole = run_simulated(replace(traffic, rate_per_s=0.0), VLLM, with_batch=True)
    late = [sorted(side.first_token_s)[int(0.95 * len(side.first_token_s))] for side in (alone, beside)]
    assert late[1] < 2.5 * late[0]
    assert beside.batch_tokens_per_s > 0.6 * (whole.batch_tokens_per_s - beside.live_tokens_per_s)


@pytest.mark.parametrize(("modelled", "rate_per_s"), [(OPENVINO, 1.5), (LLAMACPP, 0.7)], ids=["openvino", "llamacpp"])
def test_beside_models_of_the_built_in_engines_they_feel_a_step_and_batches_get_most_of_the_rest(
    modelled: Modelled, rate_per_s: float
) -> None:
    traffic = Traffic(rate_per_s=rate_per_s, duration_s=100.0, seed=4)
    alone, beside = (run_simulated(traffic, modelled, with_batch=with_batch) for with_batch in (False, True))
    whole = run_simulated(replace(traffic, rate_per_s=0.0), modelled, with_batch=True)
    late = [percentile(side.first_token_s, 0.99) for side in (alone, beside)]
    assert late[1] < 1.6 * late[0]
    assert beside.batch_tokens_per_s > 0.7 * (whole.batch_tokens_per_s - beside.live_tokens_per_s)
