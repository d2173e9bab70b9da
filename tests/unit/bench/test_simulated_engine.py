"""The simulated engine: what it takes, when it answers, and what it says of itself."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from backfill.batch import Usage
from backfill.engines import Answered, Gauges, Lost, LostReason
from backfill.engines.gauges import parse_gauges
from bench.simulated.engine import EngineSettings, SimulatedEngine, SimulatedReply, SimulatedRequest
from bench.simulated.replica import SimulatedReplica
from tests.support.virtual_clock import run_virtual

PLAIN = EngineSettings(slots=2, prefill_tokens_per_s=1_000.0, step_base_s=0.1, step_per_sequence_s=0.0)
LATENCY = EngineSettings(slots=2, latency_s=2.0)
REQUEST = SimulatedRequest(own_tokens=100, completion_tokens=10)


def serve(settings: EngineSettings, *requests: SimulatedRequest) -> list[tuple[float, SimulatedReply]]:
    async def timed(engine: SimulatedEngine, request: SimulatedRequest) -> tuple[float, SimulatedReply]:
        reply = await engine.serve(request)
        return round(asyncio.get_running_loop().time(), 6), reply

    async def all_at_once() -> list[tuple[float, SimulatedReply]]:
        engine = SimulatedEngine(settings)
        return await asyncio.gather(*(timed(engine, request) for request in requests))

    return run_virtual(all_at_once())


def test_an_answer_takes_its_prefill_and_a_step_for_each_token() -> None:
    assert serve(PLAIN, REQUEST) == [(1.1, SimulatedReply(200, 10))]


def test_who_finds_no_slot_waits() -> None:
    assert [when for when, _ in serve(LATENCY, REQUEST, REQUEST, REQUEST)] == [2.0, 2.0, 4.0]


def test_beyond_the_queue_cap_is_503() -> None:
    replies = serve(replace(LATENCY, queue_cap=1), *[REQUEST] * 4)
    assert [reply.status for _, reply in replies] == [200, 200, 200, 503]


@pytest.mark.parametrize(("tells", "expected"), [(True, 60.0), (False, None)])
def test_beyond_the_rate_is_429(tells: bool, expected: float | None) -> None:
    replies = serve(replace(LATENCY, requests_per_minute=1, tells_retry_after=tells), REQUEST, REQUEST)
    assert [reply.status for _, reply in replies] == [200, 429]
    assert replies[1][1].retry_after_s == expected


def test_a_full_cache_sends_the_youngest_back_and_all_are_answered() -> None:
    async def fill() -> tuple[int, list[int]]:
        engine = SimulatedEngine(replace(PLAIN, kv_tokens=210))
        replies = await asyncio.gather(*(engine.serve(REQUEST) for _ in range(2)))
        assert engine.kv_cache_use == 0
        return engine.counters.preempted, [reply.completion_tokens for reply in replies]

    preempted, tokens = run_virtual(fill())
    assert preempted >= 1
    assert tokens == [10, 10]


def test_a_prefix_is_computed_once_but_not_for_those_beside() -> None:
    async def share() -> list[int]:
        engine = SimulatedEngine(replace(PLAIN, prefix_cache_tokens=1_000))
        request = SimulatedRequest(10, 5, (("system", 64),))
        together = await asyncio.gather(*(engine.serve(request) for _ in range(2)))
        after = await engine.serve(request)
        return [reply.cached_tokens for reply in (*together, after)]

    assert run_virtual(share()) == [0, 0, 64]


def test_a_cancelled_request_leaves_its_slot() -> None:
    async def cancel() -> tuple[int, float]:
        engine = SimulatedEngine(replace(PLAIN, slots=1))
        first = asyncio.create_task(engine.serve(REQUEST))
        second = asyncio.create_task(engine.serve(REQUEST))
        await asyncio.sleep(0.15)
        first.cancel()
        await second
        return engine.running + engine.queued, engine.kv_cache_use

    assert run_virtual(cancel()) == (0, 0.0)


@pytest.mark.parametrize("flavour", ["vllm", "sglang", "llamacpp"])
def test_its_metrics_are_read_as_the_real_ones(flavour: str) -> None:
    async def watch() -> Gauges:
        engine = SimulatedEngine(PLAIN)
        tasks = [asyncio.create_task(engine.serve(REQUEST)) for _ in range(5)]
        await asyncio.sleep(0.05)
        text = engine.metrics_text(flavour)
        await asyncio.gather(*tasks)
        return parse_gauges(text)

    gauges = run_virtual(watch())
    assert (gauges.running, gauges.waiting) == (2, 3)
    assert gauges.kv_cache_use is not None
    assert gauges.kv_cache_use > 0


def test_the_replica_answers_and_tells_of_its_first_token_and_its_limits() -> None:
    async def ask() -> None:
        loop, came = asyncio.get_running_loop(), []
        engine = SimulatedEngine(replace(PLAIN, requests_per_minute=1, prefix_cache_tokens=1_000))
        replica = SimulatedReplica("one", engine, serves_gauges=False)
        await replica.start()
        body = msgspec.json.encode({"model": "m", "prompt": "x" * 400, "max_tokens": 10})
        reply = await replica.send("/v1/completions", body, lambda: came.append(round(loop.time(), 6)))
        assert isinstance(reply, Answered)
        assert reply.usage == Usage(100, 10, 0)
        assert came == [0.2]
        rejected = await replica.send("/v1/completions", body)
        assert isinstance(rejected, Lost)
        assert rejected.reason is LostReason.RATE_LIMITED
        assert rejected.retry_after_s == pytest.approx(58.9)
        assert await replica.read_gauges() == Gauges()

    run_virtual(ask())


def test_the_virtual_clock_waits_for_work_in_a_thread() -> None:
    async def work() -> float:
        timer = asyncio.get_running_loop().call_later(3_600, lambda: None)
        await asyncio.to_thread(sum, range(100_000))
        timer.cancel()
        return asyncio.get_running_loop().time()

    assert run_virtual(work()) == 0.0
