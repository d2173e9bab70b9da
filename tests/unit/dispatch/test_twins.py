"""Identical deterministic lines: sent once, answered together, counted apart, and each with its own custom id."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, Outcome, State
from backfill.engines import Lost, LostReason
from bench.null.process import NullEngine
from tests.support.feeding import FakeReplica, feeding, group_of, make_feeder, make_lane, make_turn
from tests.support.lines import marker_of, request_line
from tests.support.rooms import create_batch, open_house, read_results, wait_for_batch
from tests.support.virtual_clock import run_virtual


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def twin_lines(count: int, **body: Any) -> bytes:
    """So many requests that differ in their custom id alone."""
    return b"".join(request_line(0, custom_id=f"twin-{number}", **body) + b"\n" for number in range(count))


def ids_of(rooms: Rooms, file_id: str | None) -> list[str]:
    return [json.loads(line)["custom_id"] for line in read_results(rooms, file_id)]


def twin_ids(count: int) -> list[str]:
    return [f"twin-{number}" for number in range(count)]


async def run_batch(rooms: Rooms, data: bytes) -> Batch:
    batch = await wait_for_batch(rooms, (await create_batch(rooms, data)).id)
    assert batch.state is State.COMPLETED
    return batch


@pytest.mark.parametrize("body", [{"temperature": 0}, {"temperature": 0.0}, {"seed": 7, "temperature": 1.0}])
async def test_a_hundred_identical_lines_are_sent_once(engine: NullEngine, tmp_path: Path, body: Any) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, twin_lines(100, **body))
        assert engine.stats()["received"] == 1
        assert ids_of(rooms, batch.output_file_id) == twin_ids(100)
        answers = {json.dumps(json.loads(line)["response"]) for line in read_results(rooms, batch.output_file_id)}
        assert len(answers) == 1
        counts = batch.counts
        assert (counts.answered, counts.failed, counts.reused) == (100, 0, 99)
        assert counts.usage.prompt_tokens == 512
        assert counts.reused_usage.prompt_tokens == 99 * 512
        assert rooms.dispatcher.replica_statuses[0].reused == 99
        assert rooms.dispatcher.replica_statuses[0].answered == 1


async def test_more_twins_than_are_recorded_at_once(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, twin_lines(1201, temperature=0))
        assert engine.stats()["received"] == 1
        assert (batch.counts.answered, batch.counts.reused) == (1201, 1200)


async def test_each_line_runs_by_itself_where_reuse_is_off(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url, dispatch__reuse_answers=False) as rooms:
        batch = await run_batch(rooms, twin_lines(100, temperature=0))
        assert engine.stats()["received"] == 100
        assert (batch.counts.answered, batch.counts.reused) == (100, 0)
        assert batch.counts.usage.prompt_tokens == 100 * 512


@pytest.mark.parametrize("body", [{}, {"temperature": 0.7}, {"temperature": None}])
async def test_lines_whose_answers_may_differ_are_all_sent(engine: NullEngine, tmp_path: Path, body: Any) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, twin_lines(20, **body))
        assert engine.stats()["received"] == 20
        assert (batch.counts.answered, batch.counts.reused) == (20, 0)


async def test_lines_that_ask_for_something_else_are_all_sent(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        others: list[dict[str, Any]] = [{"max_tokens": 5}, {"max_tokens": 6}, {"stop": "a"}, {}]
        lines = [request_line(0, custom_id=f"o{number}", temperature=0, **body) for number, body in enumerate(others)]
        lines += [request_line(number, temperature=0) for number in range(1, 7)]
        batch = await run_batch(rooms, b"\n".join(lines) + b"\n")
        assert engine.stats()["received"] == 10
        assert (batch.counts.answered, batch.counts.reused) == (10, 0)


async def test_a_refusal_holds_for_all_that_ask_for_the_same(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(0): ["400"] * 9})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, twin_lines(30, temperature=0) + request_line(1, temperature=0) + b"\n")
        assert engine.stats()["received"] == 2
        assert ids_of(rooms, batch.error_file_id) == twin_ids(30)
        assert (batch.counts.answered, batch.counts.failed, batch.counts.reused) == (1, 30, 29)


async def test_where_one_came_to_nothing_the_next_is_sent(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(0): ["500"] * 5})
    async with open_house(tmp_path, engine.url, dispatch__tries=2) as rooms:
        batch = await run_batch(rooms, twin_lines(6, temperature=0))
        # Two tries each for the first two; the third is answered at its second try, for all that are left.
        assert engine.stats()["received"] == 6
        assert ids_of(rooms, batch.error_file_id) == twin_ids(2)
        assert ids_of(rooms, batch.output_file_id) == twin_ids(6)[2:]
        assert (batch.counts.answered, batch.counts.failed, batch.counts.reused) == (4, 2, 3)


async def test_where_all_come_to_nothing_the_batch_ends_too(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(fault_all="500")
    async with open_house(tmp_path, engine.url, dispatch__tries=1) as rooms:
        batch = await run_batch(rooms, twin_lines(5, temperature=0))
        assert engine.stats()["received"] == 5
        assert (batch.counts.answered, batch.counts.failed, batch.counts.reused) == (0, 5, 0)


async def test_twins_for_a_model_that_nobody_serves_are_all_refused(engine: NullEngine, tmp_path: Path) -> None:
    engines = {"null": {"url": engine.url, "models": ["m"]}}
    async with open_house(tmp_path, engine.url, engines=engines) as rooms:
        batch = await run_batch(rooms, twin_lines(10, temperature=0, model="nobody/knows"))
        assert engine.stats()["received"] == 0
        assert ids_of(rooms, batch.error_file_id) == twin_ids(10)
        assert batch.counts.failed == 10


async def test_a_cancel_while_the_first_is_in_flight_leaves_the_rest_undone(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, twin_lines(10, temperature=0))
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 1)
        await rooms.turns.cancel(created.id, created.owner)
        batch = await wait_for_batch(rooms, created.id)
        assert batch.state is State.CANCELLED
        assert ids_of(rooms, batch.error_file_id) == twin_ids(10)
        assert engine.stats()["received"] == 1


async def test_after_a_restart_an_answer_of_before_is_reused(engine: NullEngine, tmp_path: Path) -> None:
    # The first house runs each line by itself, and is stopped when some are answered and the rest hangs.
    engine.behave(faults={marker_of(0): ["ok"] * 3 + ["hang"] * 99})
    async with open_house(tmp_path, engine.url, dispatch__reuse_answers=False, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, twin_lines(40, temperature=0))
        before = await engine.wait_for_async(lambda stats: stats["answered"] == 3 and stats["in_flight"] == 8)
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await wait_for_batch(rooms, created.id)
        assert engine.stats()["received"] == before["received"]
        assert ids_of(rooms, batch.output_file_id) == twin_ids(40)
        assert (batch.counts.answered, batch.counts.reused) == (40, 37)
        assert batch.counts.usage.prompt_tokens == 3 * 512
        assert batch.counts.reused_usage.prompt_tokens == 37 * 512


def test_lines_that_only_seem_the_same_are_sent_by_themselves() -> None:
    async def check() -> None:
        same = b'{"line":0,"text":"the same"}'
        bodies = {0: same, 1: same, 2: b'{"line":2,"text":"another"}', 3: same, 4: b'{"line":4}'}
        groups = [group_of([0])]
        # Their digests are the same, as any two may be.
        turn = make_turn(*groups, twins={0: [1, 2, 3, 4]}, bodies=bodies)
        replica = FakeReplica()
        feeder = make_feeder(replica)
        async with feeding(feeder), asyncio.timeout(60):
            feeder.offer(make_lane(turn, groups, [replica]))
            await turn.over.wait()
            assert feeder.status.reused == 2
        assert sorted(replica.sent) == [0, 2, 4]
        assert turn.outcomes == dict.fromkeys(range(5), Outcome.ANSWERED)
        assert {record.line for record in turn.records if record.reused} == {1, 3}

    run_virtual(check())


def test_each_of_those_that_come_to_nothing_hands_on_once() -> None:
    async def check() -> None:
        groups = [group_of([0])]
        same = b'{"line":0}'
        turn = make_turn(*groups, twins={0: [1, 2, 3]}, bodies=dict.fromkeys(range(4), same))
        replica = FakeReplica()
        replica.script = lambda _: Lost(LostReason.SERVER_ERROR, "broken", 500) if len(replica.sent) <= 4 else None
        feeder = make_feeder(replica, tries=2)
        async with feeding(feeder), asyncio.timeout(60):
            feeder.offer(make_lane(turn, groups, [replica]))
            await turn.over.wait()
        outcomes = [turn.outcomes[line] for line in range(4)]
        assert outcomes == [Outcome.EXHAUSTED, Outcome.EXHAUSTED, Outcome.ANSWERED, Outcome.ANSWERED]
        assert len(replica.sent) == 5
        assert turn.twins == {}

    run_virtual(check())
