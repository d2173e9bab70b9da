"""Lines leave for live requests where these would find no place: the youngest, at once, for a bounded price."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from backfill.batch import Outcome
from backfill.dispatch.feeder import Feeder
from backfill.engines import Presence
from bench.simulated.clock import run_virtual
from tests.support.feeding import (
    FakeReplica,
    MemoryTurn,
    feeding,
    group_of,
    make_feeder,
    make_lane,
    make_limits,
    make_turn,
)

PLACES = 8
LINES = 400
LINE_S = 4.0


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    run_virtual(coroutine)


def yes(_endpoint: str, _body: bytes) -> bool:
    return True


def make_replica(gives_way: Callable[[str, bytes], bool] = yes, duration_s: float = LINE_S) -> FakeReplica:
    replica = FakeReplica(limits=make_limits(PLACES, gives_way=gives_way), duration_s=duration_s)
    # So that they do not all end together.
    replica.on_send = lambda line: setattr(replica, "duration_s", duration_s * (1 + line % 7 / 10))
    return replica


def load(replica: FakeReplica, lines: int = LINES) -> tuple[Feeder, Presence, MemoryTurn]:
    feeder, presence = make_feeder(replica), Presence()
    feeder.make_room_for(presence)
    group = group_of(range(lines))
    turn = make_turn(group)
    feeder.offer(make_lane(turn, [group], [replica]))
    return feeder, presence, turn


def list_records(turn: MemoryTurn) -> list[int]:
    return [record.line for record in turn.records]


def test_a_live_request_that_finds_no_place_has_the_youngest_line_leave_at_once() -> None:
    async def check() -> None:
        replica = make_replica()
        feeder, presence, turn = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(2.0)
            assert feeder.in_flight == PLACES
            youngest = replica.sent[-1]
            visit = presence.enter(1000, is_stream=True)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(replica.in_flight) == PLACES - 1
            assert youngest not in replica.in_flight
            visit.note_first_token()
            await asyncio.sleep(0.05)
            # It has its place until it leaves, and one more is kept for the next one at most.
            assert feeder.in_flight <= PLACES - 1
            visit.leave()
            await turn.over.wait()
        assert replica.sent.count(youngest) == 2
        assert (feeder.status.preempted, feeder.status.lost, feeder.status.answered) == (1, 0, LINES)
        assert sorted(list_records(turn)) == list(range(LINES))
        assert set(turn.outcomes.values()) == {Outcome.ANSWERED}
        assert {record.tries for record in turn.records} == {1}

    run(check())


def test_a_burst_takes_as_many_and_leaves_one() -> None:
    async def check() -> None:
        replica = make_replica()
        feeder, presence, _ = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(0.2)
            visits = [presence.enter(1000, is_stream=True) for _ in range(PLACES + 3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(replica.in_flight) == 1
            for visit in visits:
                visit.leave()

    run(check())


def test_lines_that_would_hold_their_place_are_not_cancelled_and_places_are_kept_free_instead() -> None:
    async def check() -> None:
        replica = make_replica(lambda _endpoint, body: json.loads(body)["line"] % 2 == 0)
        feeder, presence, turn = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(2.0)
            visits = [presence.enter(1000, is_stream=True) for _ in range(2)]
            await asyncio.sleep(0)
            for visit in visits:
                visit.note_first_token()
                visit.leave()
            await turn.over.wait()
        again = {line for line in replica.sent if replica.sent.count(line) > 1}
        assert len(again) == 2
        assert all(line % 2 == 0 for line in again)
        assert sorted(list_records(turn)) == list(range(LINES))

    run(check())


@pytest.mark.parametrize("gap_s", [1.0, 5.0])
def test_no_more_than_a_share_of_the_work_is_thrown_away(gap_s: float) -> None:
    async def check() -> None:
        replica = make_replica()
        feeder, presence, turn = load(replica)
        lost_s = 0.0
        began: dict[int, float] = {}
        loop = asyncio.get_running_loop()
        note = replica.on_send

        def on_send(line: int) -> None:
            nonlocal lost_s
            note(line)
            began[line] = loop.time()

        replica.on_send = on_send
        async with feeding(feeder):
            for _ in range(200):
                before = set(replica.in_flight)
                visits = [presence.enter(1000, is_stream=True) for _ in range(3)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                gone = before - set(replica.in_flight) - set(list_records(turn))
                lost_s += sum(loop.time() - began[line] for line in gone)
                for visit in visits:
                    visit.note_first_token()
                await asyncio.sleep(0.2)
                for visit in visits:
                    visit.leave()
                await asyncio.sleep(gap_s)
        done_s = sum(record.duration_ms for record in turn.records) / 1000
        assert lost_s > 0
        assert lost_s <= 0.1 * done_s + 2.0 * PLACES

    run(check())


def test_a_line_with_twins_is_answered_once_and_so_are_they() -> None:
    async def check() -> None:
        replica = make_replica()
        feeder, presence = make_feeder(replica), Presence()
        feeder.make_room_for(presence)
        group = group_of(range(PLACES))
        body = json.dumps({"model": "m", "line": PLACES - 1}).encode()
        twins = list(range(100, 110))
        turn = make_turn(group, twins={PLACES - 1: twins}, bodies=dict.fromkeys([PLACES - 1, *twins], body))
        feeder.offer(make_lane(turn, [group], [replica]))
        async with feeding(feeder):
            await asyncio.sleep(1.0)
            visit = presence.enter(1000, is_stream=True)
            await asyncio.sleep(1.0)
            visit.leave()
            await turn.over.wait()
        assert replica.sent.count(PLACES - 1) == 2
        assert sorted(list_records(turn)) == [*range(PLACES), *twins]

    run(check())


@pytest.mark.parametrize("is_before", [True, False])
def test_a_batch_that_is_stopped_at_the_same_moment_ends(*, is_before: bool) -> None:
    async def check() -> None:
        replica = make_replica()
        feeder, presence, turn = load(replica)
        async with feeding(feeder):
            await asyncio.sleep(2.0)
            visits = [presence.enter(1000, is_stream=True)] if is_before else []
            stopping = asyncio.create_task(turn.wind_down(0.0))
            await asyncio.sleep(0)
            if not is_before:
                visits.append(presence.enter(1000, is_stream=True))
            await stopping
            assert feeder.in_flight == 0
            assert not turn.is_in_flight
            for visit in visits:
                visit.leave()
            # The workers are as good as before.
            group = group_of(range(1000, 1020))
            other = make_turn(group)
            feeder.offer(make_lane(other, [group], [replica]))
            await other.over.wait()
            assert feeder.live.preemption.leaving == 0

    run(check())


def test_a_feeder_that_is_ended_ends_although_a_line_was_told_to_leave() -> None:
    async def check() -> None:
        feeder, presence, _ = load(make_replica())
        feeding_task = asyncio.create_task(feeder.run())
        await asyncio.sleep(2.0)
        presence.enter(1000, is_stream=True)
        feeding_task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await feeding_task
        assert feeder.in_flight == 0

    run(check())
