"""Replicas fed in this process, in virtual time: who gets which line, how many at once, and what is shown of it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from backfill.batch import Outcome
from backfill.dispatch.concurrency import ConcurrencyController
from backfill.dispatch.feeder import Feeder
from backfill.engines import CacheHabit, Lost, LostReason, OnFirstToken, Refused, Reply
from backfill.plan import LineGroup
from backfill.status import Bottleneck, ReplicaState
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
from tests.support.virtual_clock import run_virtual

BUSY = Lost(LostReason.RATE_LIMITED, "too many", 429)
BROKEN = Lost(LostReason.SERVER_ERROR, "broken", 500)


def offer(groups: Sequence[LineGroup], *feeders: Feeder) -> MemoryTurn:
    """A batch whose lines all of them may send."""
    turn = make_turn(*groups)
    replicas = [feeder.replica for feeder in feeders]
    lane = make_lane(turn, groups, [replica for replica in replicas if isinstance(replica, FakeReplica)])
    for feeder in feeders:
        feeder.offer(lane, [other for other in feeders if other is not feeder])
    return turn


def pin(feeder: Feeder, bottleneck: Bottleneck = Bottleneck.UNKNOWN) -> ConcurrencyController:
    """The feeder's controller, which no more changes anything by itself."""
    controller = feeder._controller
    controller.bottleneck = bottleneck
    controller.note_replies = lambda *_: None  # type: ignore[method-assign]
    controller.tick = lambda *_, **__: None  # type: ignore[method-assign]
    return controller


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(600):
        while not condition():
            await asyncio.sleep(0.01)


async def feed(groups: Sequence[LineGroup], *replicas: FakeReplica) -> MemoryTurn:
    """Feed until every line has its outcome."""
    feeders = [make_feeder(replica) for replica in replicas]
    async with feeding(*feeders), asyncio.timeout(3600):
        turn = offer(groups, *feeders)
        await turn.over.wait()
    total = sum(len(group.lines) for group in groups)
    assert turn.outcomes == dict.fromkeys(range(total), Outcome.ANSWERED)
    return turn


def test_as_many_are_in_flight_as_the_limit_says() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(100))
        feeder = make_feeder(replica)
        controller = pin(feeder)
        async with feeding(feeder), asyncio.timeout(600):
            turn = offer([group_of(range(400))], feeder)
            for limit in (3, 12, 5, 1, 40):
                controller.limit = limit
                # Two round trips: those above a lower limit end, and a tick has seen a higher one.
                await asyncio.sleep(2.6)
                assert len(replica.in_flight) == feeder.in_flight == limit
            await turn.over.wait()
        assert len(turn.outcomes) == 400
        assert feeder.in_flight == 0

    run_virtual(check())


class PrefixWatch(FakeReplica):
    """Fails when two requests compute one new prefix at once; a prefix is new until somebody's first token came."""

    def __init__(self, groups: Sequence[LineGroup]) -> None:
        limits = make_limits(6)
        super().__init__(limits=limits, cache_habit=CacheHabit.PREFIX_LEADER, duration_s=3.0, first_token_s=1.0)
        self.chains = {line: group.prefix for group in groups for line in group.lines}
        self.computing: Counter[int] = Counter()
        self.known: set[int] = set()
        self.most_in_flight = 0
        self.computed: Counter[int] = Counter()

    async def _compute(self, line: int, on_first_token: OnFirstToken | None) -> None:
        new = [prefix for prefix in self.chains[line] if prefix not in self.known]
        self.computing.update(new)
        self.computed.update(new)
        assert all(self.computing[prefix] == 1 for prefix in new), f"{new} are computed twice at once"
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))

        def note() -> None:
            self.known.update(new)
            self.computing.subtract(new)
            if on_first_token is not None:
                on_first_token()

        await super()._compute(line, note)


def test_one_request_leads_a_new_prefix_while_others_fill_the_room() -> None:
    async def check() -> None:
        groups = [
            group_of(range(10), 1, 2),
            group_of(range(10, 20), 1, 3),
            group_of(range(20, 30), 4),
            group_of(range(30, 40)),
            group_of(range(40, 50), 5, 6, 7),
        ]
        replica = PrefixWatch(groups)
        await feed(groups, replica)
        # One leader each for 1-2, 4 and 5-6-7; what has no prefix takes the rest of the six places.
        assert sorted(replica.sent[:6]) == [0, 20, 30, 31, 32, 33]
        assert replica.most_in_flight == 6
        assert set(replica.computed.values()) == {1}

    run_virtual(check())


def test_a_leader_that_is_lost_is_followed_by_another_leader() -> None:
    async def check() -> None:
        groups = [group_of(range(6), 1)]
        replica = FakeReplica(limits=make_limits(6), cache_habit=CacheHabit.PREFIX_LEADER)
        seen: list[set[int]] = []
        replica.on_send = lambda _: seen.append(set(replica.in_flight))
        replica.script = lambda line: BROKEN if len(replica.sent) < 3 else None
        await feed(groups, replica)
        # The others wait for the next leader as they did for the first, and no longer.
        assert seen[:2] == [{0}, {1}]
        assert max(map(len, seen)) > 1

    run_virtual(check())


def test_a_slower_replica_leaves_the_last_lines_to_the_faster() -> None:
    async def check() -> None:
        fast = FakeReplica("fast", make_limits(4), duration_s=1.0)
        slow = FakeReplica("slow", make_limits(4), duration_s=4.0)
        feeders = [make_feeder(fast), make_feeder(slow)]
        async with feeding(*feeders), asyncio.timeout(600):
            turn = offer([group_of(range(98))], *feeders)
            await turn.over.wait()
            ended_s = asyncio.get_running_loop().time()
        assert len(turn.outcomes) == 98
        assert len(slow.sent) > 10
        # Whatever the slow one was still given, the fast one was not done much before it.
        fast_ended_s = max(fast.sent_at_s) + 1.0
        assert ended_s - fast_ended_s < 1.0
        assert max(slow.sent_at_s) + 4.0 <= ended_s

    run_virtual(check())


def test_the_last_line_of_a_slow_replicas_group_is_not_waited_for() -> None:
    async def check() -> None:
        fast = FakeReplica("fast", make_limits(2), duration_s=1.0)
        slow = FakeReplica("slow", make_limits(1), duration_s=40.0)
        feeders = [make_feeder(fast), make_feeder(slow)]
        groups = [group_of(range(2), 1), group_of(range(2, 200), 2)]
        for feeder in feeders:
            pin(feeder)
        async with feeding(*feeders), asyncio.timeout(600):
            slow.first_token_s = 0.0
            turn = offer(groups, *reversed(feeders))
            await turn.over.wait()
        # 198 lines of its own take the fast one 99 s; the slow one sends three or so, and is idle at the end.
        assert asyncio.get_running_loop().time() < 105

    run_virtual(check())


def test_a_replica_that_cannot_be_reached_loses_its_share_and_gets_it_back() -> None:
    async def check() -> None:
        first, second = FakeReplica("first", make_limits(2)), FakeReplica("second", make_limits(2))
        groups = [group_of(range(100), 1), group_of(range(100, 200), 2)]
        feeders = [make_feeder(first), make_feeder(second)]
        async with feeding(*feeders), asyncio.timeout(3600):
            turn = offer(groups, *feeders)
            await wait_until(lambda: len(first.sent) >= 10 and len(second.sent) >= 10)
            first.is_down = True
            await wait_until(lambda: not feeders[0].is_well)
            sent = len(first.sent)
            await wait_until(lambda: len(turn.outcomes) >= 100)
            assert len(first.sent) == sent
            troubles = [feeders[0].status.trouble]
            assert feeders[0].status.state in (ReplicaState.PAUSED, ReplicaState.DOWN)
            first.is_down = False
            await turn.over.wait()
            troubles.append(feeders[0].status.trouble)
        assert troubles == ["it is down", None]
        assert len(first.sent) > sent + 10
        assert len(turn.outcomes) == 200
        assert set(Counter(first.sent + second.sent).values()) == {1}, "no line was sent twice"

    run_virtual(check())


def test_a_batch_ends_although_a_replica_with_begun_groups_stays_down() -> None:
    async def check() -> None:
        first, second = FakeReplica("first", make_limits(2)), FakeReplica("second", make_limits(2))
        groups = [group_of(range(start, start + 5), start + 1) for start in range(0, 100, 5)]
        feeders = [make_feeder(first), make_feeder(second)]
        async with feeding(*feeders), asyncio.timeout(3600):
            turn = offer(groups, *feeders)
            await wait_until(lambda: len(first.sent) >= 6)
            first.is_down = True
            await turn.over.wait()
        assert len(turn.outcomes) == 100

    run_virtual(check())


def test_five_losses_in_a_row_give_the_other_replica_the_lines() -> None:
    async def check() -> None:
        sick, well = FakeReplica("sick", make_limits(2)), FakeReplica("well", make_limits(2))
        sick.script = lambda line: BROKEN
        turn = await feed([group_of(range(60))], sick, well)
        # Each of its losses costs a line a try; without the breaker 60 lines would have met it again and again.
        assert len(sick.sent) < 20
        assert len(turn.records) == 60

    run_virtual(check())


def test_retry_after_is_waited_for_and_then_all_go_on() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(4))
        told: list[float] = []

        def script(line: int) -> Reply | None:
            if told:
                return None
            told.append(asyncio.get_running_loop().time())
            return Lost(LostReason.RATE_LIMITED, "wait", 429, 7.0)

        replica.script = script
        feeder = make_feeder(replica)
        async with feeding(feeder), asyncio.timeout(600):
            turn = offer([group_of(range(20))], feeder)
            await wait_until(lambda: bool(told))
            await asyncio.sleep(3)
            assert (feeder.status.state, feeder.status.rate_limited) == (ReplicaState.PAUSED, 1)
            assert not feeder.is_well
            await turn.over.wait()
        asked_s = told[0]
        assert not [sent_s for sent_s in replica.sent_at_s if asked_s < sent_s < asked_s + 7.0]
        assert turn.outcomes == dict.fromkeys(range(20), Outcome.ANSWERED)

    run_virtual(check())


def test_a_429_costs_no_try_unless_it_is_that_line_every_time() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(4), duration_s=0.1)
        replica.script = lambda line: BUSY if line == 3 else None
        feeder = make_feeder(replica, tries=2)
        async with feeding(feeder), asyncio.timeout(36_000):
            turn = offer([group_of(range(3000))], feeder)
            await turn.over.wait()
        assert turn.outcomes.pop(3) is Outcome.EXHAUSTED
        assert Counter(replica.sent)[3] == 20
        assert set(turn.outcomes.values()) - {Outcome.EXHAUSTED} == {Outcome.ANSWERED}

    run_virtual(check())


def test_losses_are_tried_again_as_often_as_configured_and_refusals_never() -> None:
    async def check() -> None:
        replies: dict[int, Reply] = {1: BROKEN, 2: Refused(400, b'{"error":{}}')}
        replica = FakeReplica(limits=make_limits(4), duration_s=0.1)
        replica.script = replies.get
        feeder = make_feeder(replica, tries=3)
        async with feeding(feeder), asyncio.timeout(600):
            turn = offer([group_of(range(4))], feeder)
            await turn.over.wait()
        outcomes = [turn.outcomes[line] for line in range(4)]
        assert outcomes == [Outcome.ANSWERED, Outcome.EXHAUSTED, Outcome.REFUSED, Outcome.ANSWERED]
        assert Counter(replica.sent) == {0: 1, 1: 3, 2: 1, 3: 1}
        assert [record.tries for record in turn.records if record.line == 1] == [3]

    run_virtual(check())


def test_the_status_tells_how_a_replica_is() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(4))
        feeder = make_feeder(replica)
        pin(feeder, Bottleneck.CEILING)
        starting = asyncio.Event()
        start = replica.start

        async def start_slowly() -> None:
            await starting.wait()
            await start()

        replica.start = start_slowly  # type: ignore[method-assign]
        assert (feeder.status.state, feeder.status.bottleneck) == (ReplicaState.DOWN, Bottleneck.WORK)
        async with feeding(feeder), asyncio.timeout(600):
            turn = offer([group_of(range(400))], feeder)
            await asyncio.sleep(1)
            assert (feeder.status.state, feeder.status.in_flight) == (ReplicaState.STARTING, 0)
            starting.set()
            await asyncio.sleep(20.5)
            status = feeder.status
            assert (status.state, status.in_flight, status.concurrency_limit) == (ReplicaState.UP, 4, 4)
            assert (status.bottleneck, status.concurrency_ceiling) == (Bottleneck.CEILING, 4)
            assert status.requests_per_s == pytest.approx(4.0, rel=0.3)
            assert status.completion_tokens_per_s == pytest.approx(20.0, rel=0.3)
            assert (status.prompt_tokens, status.cached_tokens) == (10 * status.answered, status.answered)
            await turn.over.wait()
            await asyncio.sleep(1)
            status = feeder.status
        assert (status.state, status.bottleneck) == (ReplicaState.UP, Bottleneck.WORK)
        assert (status.answered, status.lost, status.in_flight, status.requests_per_s) == (400, 0, 0, 0.0)

    run_virtual(check())


def test_the_status_of_a_replica_that_fails_and_recovers() -> None:
    async def check() -> None:
        replica = FakeReplica(limits=make_limits(4))
        feeder = make_feeder(replica)
        async with feeding(feeder), asyncio.timeout(600):
            turn = offer([group_of(range(40))], feeder)
            await wait_until(lambda: feeder.status.state is ReplicaState.UP)
            replica.is_down = True
            await asyncio.sleep(1.1)
            assert (feeder.status.state, feeder.status.trouble) == (ReplicaState.PAUSED, "it is down")
            replica.is_down = False
            await wait_until(lambda: feeder.status.state is ReplicaState.PROBING)
            await wait_until(lambda: feeder.in_flight > 0)
            assert feeder.in_flight == 1
            await turn.over.wait()
            status = feeder.status
        assert (status.state, status.trouble) == (ReplicaState.UP, None)
        assert (status.answered, status.lost) == (40, 0)

    run_virtual(check())


def test_a_disk_that_lags_is_the_bottleneck(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        feeder = make_feeder(FakeReplica())
        async with feeding(feeder), asyncio.timeout(600):
            turn = offer([group_of(range(100))], feeder)
            await asyncio.sleep(3)
            room = asyncio.Event()
            journal = turn._writer
            monkeypatch.setattr(journal, "is_behind", True)
            monkeypatch.setattr(journal, "wait_for_room", room.wait, raising=False)
            await asyncio.sleep(3)
            assert feeder.status.bottleneck is Bottleneck.DISK
            assert feeder.in_flight == 0
            monkeypatch.setattr(journal, "is_behind", False)
            room.set()
            await turn.over.wait()

    run_virtual(check())


def test_nothing_is_begun_once_the_batch_is_stopped() -> None:
    async def check() -> None:
        replica = FakeReplica(cache_habit=CacheHabit.PREFIX_LEADER, limits=make_limits(2))
        feeder = make_feeder(replica)
        async with feeding(feeder), asyncio.timeout(600):
            await replica.start()
            await asyncio.sleep(0)
            turn = offer([group_of(range(4), 1)], feeder)
            feeder._fill()
            # The lines are with their workers, which have not run yet.
            await turn.wind_down(0.0)
            await asyncio.sleep(5)
        assert replica.sent == []
        assert feeder.in_flight == 0
        assert feeder._gate._busy == {}

    run_virtual(check())


def test_a_stop_cuts_off_what_outlasts_the_grace() -> None:
    async def check() -> None:
        replica = FakeReplica(duration_s=100.0, limits=make_limits(3))
        feeder = make_feeder(replica)
        async with feeding(feeder), asyncio.timeout(600):
            stopped = offer([group_of(range(10))], feeder)
            await wait_until(lambda: feeder.in_flight == 3)
            await stopped.wind_down(5.0)
            assert not replica.in_flight
            assert feeder.in_flight == 0
            replica.duration_s = 1.0
            other = offer([group_of(range(10))], feeder)
            await other.over.wait()
        assert stopped.records == []
        assert len(other.outcomes) == 10

    run_virtual(check())
