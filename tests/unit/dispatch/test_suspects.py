"""A line that ends the engine's process, in virtual time: it is found, and costs its neighbours nothing."""

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Outcome
from backfill.engines import Lost, LostReason, OnFirstToken, Reply
from tests.support.feeding import FakeReplica, MemoryTurn, feeding, group_of, make_feeder, make_lane, make_limits
from tests.support.feeding import make_turn as make_plain_turn
from tests.support.virtual_clock import run_virtual

ENDED = Lost(LostReason.DISCONNECTED, "Engine 'a' ended while it had the request (signal 9).", engine_ended=True)
LINES = 100


class FragileReplica(FakeReplica):
    """Its process ends while it computes a deadly line: all that it has then is lost, and it has to be started."""

    def __init__(self, concurrency: int, deadly: Iterable[int] = (), name: str = "a") -> None:
        super().__init__(name, make_limits(concurrency))
        self.deadly = set(deadly)
        self.ends: list[set[int]] = []
        """Which lines it had each time."""
        self.ends_left = 1 << 30
        self._ended = asyncio.Event()
        self._cut: set[int] = set()
        self.script = self._find_end

    async def _compute(self, line: int, on_first_token: OnFirstToken | None) -> None:
        ended = self._ended
        if line in self.deadly and self.ends_left:
            await asyncio.sleep(self.duration_s / 2)
            if not ended.is_set():
                self._end()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.duration_s):
                await ended.wait()
        if ended.is_set():
            self._cut.add(line)

    def _end(self) -> None:
        self.ends_left -= 1
        self.ends.append(set(self.in_flight))
        self.address = None
        self._ended.set()
        self._ended = asyncio.Event()

    def _find_end(self, line: int) -> Reply | None:
        if line in self._cut:
            self._cut.discard(line)
            return ENDED
        return None


def make_turn(*replicas: FragileReplica) -> MemoryTurn:
    groups = [group_of(range(LINES))]
    turn = make_plain_turn(*groups)
    make_lane(turn, groups, replicas)
    return turn


async def feed(*replicas: FragileReplica, tries: int = 5) -> MemoryTurn:
    """Feed until every line has its outcome."""
    feeders = [make_feeder(replica, tries=tries) for replica in replicas]
    async with feeding(*feeders), asyncio.timeout(36_000):
        turn = make_turn(*replicas)
        for feeder in feeders:
            feeder.offer(turn.lanes[0], [other for other in feeders if other is not feeder])
        await turn.over.wait()
    assert all(lane.delayed == 0 for lane in turn.lanes)
    return turn


def check_outcomes(turn: MemoryTurn, deadly: Iterable[int]) -> None:
    """Each deadly line fails, and every other is answered at its first try."""
    guilty = set(deadly)
    assert len(turn.outcomes) == LINES
    assert {line for line, outcome in turn.outcomes.items() if outcome is Outcome.EXHAUSTED} == guilty
    assert {record.tries for record in turn.records if record.line not in guilty} == {1}
    for record in turn.records:
        if record.line in guilty:
            error = json.loads(record.body)["error"]
            assert error == {
                "message": f"{ENDED.message} (given up after 2 tries)",
                "type": "server_error",
                "code": "connection_lost",
            }


@pytest.mark.parametrize("concurrency", [1, 2, 4, 8, 16, 64, 100])
@pytest.mark.parametrize("deadly", [(0,), (57,), (99,), (3, 4)])
def test_the_line_that_ends_an_engine_fails_alone(concurrency: int, deadly: tuple[int, ...]) -> None:
    async def check() -> None:
        replica = FragileReplica(concurrency, deadly)
        check_outcomes(await feed(replica), deadly)
        # Some ends to find each, and two by which it shows.
        assert len(replica.ends) <= len(deadly) * 5
        assert [len(each) for each in replica.ends].count(1) >= 2 * len(deadly)

    run_virtual(check())


@given(st.sets(st.integers(0, LINES - 1), max_size=6), st.integers(1, 40))
def test_whichever_lines_end_it(deadly: set[int], concurrency: int) -> None:
    async def check() -> None:
        check_outcomes(await feed(FragileReplica(concurrency, deadly)), deadly)

    run_virtual(check())


def test_an_end_that_no_line_is_guilty_of_costs_none_a_try() -> None:
    async def check() -> None:
        replica = FragileReplica(16, {5})
        replica.ends_left = 1
        turn = await feed(replica, tries=1)
        assert set(turn.outcomes.values()) == {Outcome.ANSWERED}
        assert {record.tries for record in turn.records} == {1}
        assert len(replica.sent) == LINES + 16

    run_virtual(check())


def test_suspects_are_in_no_company_but_their_own() -> None:
    async def check() -> None:
        replica = FragileReplica(16, {5})
        company: list[set[int]] = []
        replica.on_send = lambda _: company.append(set(replica.in_flight))
        await feed(replica)
        first = replica.ends[0]
        assert len(first) == 16
        # Until the last of them is through.
        last = max(at for at, line in enumerate(replica.sent) if line in first)
        suspected = company[16 : last + 1]
        assert all(each <= first for each in suspected)
        assert max(map(len, suspected)) == 2
        assert replica.ends[1:] == [replica.ends[1], {5}, {5}]
        # And then as many as before.
        assert max(map(len, company[last + 1 :])) == 16

    run_virtual(check())


def test_other_replicas_are_not_ended_one_after_the_other() -> None:
    async def check() -> None:
        one, other = FragileReplica(4, {0}, "a"), FragileReplica(4, {0}, "b")
        turn = await feed(one, other)
        check_outcomes(turn, {0})
        assert sorted([bool(one.ends), bool(other.ends)]) == [False, True]

    run_virtual(check())


def test_a_replica_that_does_not_come_up_again_leaves_its_lines_to_another() -> None:
    async def check() -> None:
        one, other = FragileReplica(4, {0}, "a"), FragileReplica(4, (), "b")
        end = one._end

        def end_for_good() -> None:
            end()
            one.is_down = True

        one._end = end_for_good  # type: ignore[method-assign]
        other.duration_s = 2.0
        turn = await feed(one, other)
        assert set(turn.outcomes.values()) == {Outcome.ANSWERED}
        assert len(one.ends) <= 1

    run_virtual(check())


def test_what_was_lost_in_other_ways_is_tried_as_ever() -> None:
    async def check() -> None:
        replica = FragileReplica(4)
        broken = Lost(LostReason.DISCONNECTED, "The connection is lost.")
        replica.script = lambda line: broken if line == 7 else None
        turn = await feed(replica, tries=3)
        (failed,) = [record for record in turn.records if record.outcome is Outcome.EXHAUSTED]
        assert (failed.line, failed.tries) == (7, 3)

    run_virtual(check())


def test_a_batch_that_is_stopped_takes_its_suspects_with_it() -> None:
    async def check() -> None:
        replica = FragileReplica(4, {0})
        feeder = make_feeder(replica)
        async with feeding(feeder), asyncio.timeout(600):
            turn = make_turn(replica)
            feeder.offer(turn.lanes[0])
            while not replica.ends:
                await asyncio.sleep(0.01)
            replica.is_down = True
            await asyncio.sleep(1)
            await turn.wind_down(1)
            feeder.withdraw(turn.lanes[0])
            replica.is_down = False
            sent = len(replica.sent)
            next_turn = make_turn(replica)
            replica.deadly = set()
            feeder.offer(next_turn.lanes[0])
            await next_turn.over.wait()
            assert len(replica.sent) == sent + LINES
            assert not feeder.has_unfinished

    run_virtual(check())
