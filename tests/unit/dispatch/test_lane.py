"""Which line goes to which replica next: planned order, groups that stay together, and no line lost or given twice."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backfill.dispatch import lane as lane_module
from backfill.dispatch.lane import Job, Lane
from backfill.dispatch.prefix_gate import PrefixGate
from backfill.engines import CacheHabit, Route
from backfill.plan import LineGroup
from tests.support.feeding import FakeReplica, group_of, make_lane, make_turn
from tests.support.virtual_clock import run_virtual

if TYPE_CHECKING:
    from backfill.dispatch.open_turn import OpenTurn


class Desk:
    """A lane, and some replicas with their gates."""

    def __init__(self, groups: Sequence[LineGroup], *names: str, habit: CacheHabit = CacheHabit.NONE) -> None:
        self.lane: Lane[OpenTurn] = make_lane(make_turn(*groups), groups, [FakeReplica(name) for name in names])
        self.gates = {name: self._make_gate(name, habit) for name in names}

    def _make_gate(self, name: str, habit: CacheHabit) -> PrefixGate:
        return PrefixGate(habit, 1, lambda prefix: self.lane.release(name, prefix))

    def take(self, name: str) -> Job | None:
        return self.lane.take(name, self.gates[name])

    def take_line(self, name: str) -> int | None:
        job = self.take(name)
        return None if job is None else job.line

    def take_all(self, name: str) -> list[int]:
        lines = []
        while (line := self.take_line(name)) is not None:
            lines.append(line)
        return lines


def end(job: Job | None, *, computed: bool = True) -> None:
    assert job is not None
    if job.passage is not None:
        job.passage.note_end(computed=computed)


def test_lines_are_given_out_in_planned_order() -> None:
    desk = Desk([group_of([4, 2], 1), group_of([9, 0]), group_of([3], 2)], "a")
    assert desk.take_all("a") == [4, 2, 9, 0, 3]
    assert desk.lane.unsent == 0


def test_a_body_is_changed_only_where_the_model_has_another_name() -> None:
    one, two = FakeReplica("one"), FakeReplica("two")
    route = Route("m", "/v1/completions", (one, two), {"one": "m", "two": "upstream"})
    groups = [group_of([0])]
    lane: Lane[OpenTurn] = Lane(make_turn(*groups), route, groups, insert_model=False)
    body = b'{ "model": "m", "x": 1.50 }'
    assert lane.body_for(one, body) is body
    assert lane.body_for(two, body) == b'{"model":"upstream","x":1.50}'
    # The lines of a batch that names the model once have none of their own.
    lane = Lane(make_turn(*groups), route, groups, insert_model=True)
    assert lane.body_for(one, b'{"x":1.50}') == b'{"x":1.50,"model":"m"}'


def test_lines_that_came_back_go_first_and_to_anyone() -> None:
    desk = Desk([group_of([0, 1, 2, 3], 1), group_of([4, 5], 2)], "a", "b")
    assert [desk.take_line("a"), desk.take_line("a")] == [0, 1]
    desk.lane.put_back(1)
    desk.lane.put_back(0)
    assert desk.lane.unsent == 6
    assert [desk.take_line("b"), desk.take_line("a"), desk.take_line("a")] == [1, 0, 2]


def test_whoever_waits_for_lines_hears_that_one_came_back() -> None:
    desk = Desk([group_of([0])], "a")
    heard: list[int] = []
    desk.lane.subscribe(lambda: heard.append(desk.lane.unsent))
    desk.take("a")
    desk.lane.put_back(0)
    assert heard == [1]


def test_a_group_stays_on_the_replica_that_begins_it() -> None:
    desk = Desk([group_of(range(10), 1), group_of(range(10, 20), 2), group_of(range(20, 24), 3)], "a", "b")
    taken = [(name, desk.take_line(name)) for _ in range(10) for name in ("a", "b")]
    assert [line for name, line in taken if name == "a"] == list(range(10))
    assert [line for name, line in taken if name == "b"] == list(range(10, 20))


def test_an_idle_replica_takes_over_the_later_half_of_the_largest_group() -> None:
    desk = Desk([group_of(range(4), 1), group_of(range(10, 20), 2)], "a", "b", "c")
    assert (desk.take_line("a"), desk.take_line("b")) == (0, 10)
    # 9 are left of the second group: its replica keeps 4.
    assert desk.take_line("c") == 15
    assert [desk.take_line("b") for _ in range(4)] == [11, 12, 13, 14]
    assert [desk.take_line("c") for _ in range(4)] == [16, 17, 18, 19]
    assert desk.take_line("c") == 2, "then half of the next largest"


def test_the_last_line_of_a_replica_that_sends_nothing_is_taken_over() -> None:
    desk = Desk([group_of(range(8), 1)], "down", "well")
    assert desk.take_line("down") == 0
    assert sorted(desk.take_all("well")) == list(range(1, 8))
    assert desk.lane.unsent == 0
    assert desk.take("down") is None


def test_a_parked_group_is_taken_over_too() -> None:
    desk = Desk([group_of([0, 1], 1)], "a", "b", habit=CacheHabit.PREFIX_LEADER)
    leader = desk.take("a")
    assert desk.take("a") is None
    assert desk.take_line("b") == 1
    end(leader)
    assert desk.take("a") is None


def test_no_group_is_taken_over_that_would_have_to_wait() -> None:
    desk = Desk([group_of(range(6), 1, 2), group_of(range(10, 16), 1, 3)], "a", "b", habit=CacheHabit.PREFIX_LEADER)
    assert (desk.take_line("a"), desk.take_line("b")) == (0, 10)
    assert desk.take("b") is None
    # Both wait at their own replicas: nothing was moved about meanwhile.
    assert [sum(group.left for group in share.groups()) for share in desk.lane._shares.values()] == [5, 5]


def test_lines_without_a_prefix_are_shared() -> None:
    desk = Desk([group_of(range(6))], "a", "b")
    assert [desk.take_line(name) for name in ("a", "b", "b", "a")] == [0, 1, 2, 3]


def test_a_group_that_waits_for_its_leader_makes_room_and_comes_back() -> None:
    groups = [group_of([0, 1, 2], 1, answer_tokens=99), group_of([10, 11], 2), group_of([20])]
    desk = Desk(groups, "a", habit=CacheHabit.PREFIX_LEADER)
    first, second = desk.take("a"), desk.take("a")
    assert first is not None
    assert second is not None
    assert (first.line, second.line, desk.take_line("a")) == (0, 10, 20)
    assert desk.take("a") is None
    assert desk.lane.unsent == 3
    assert first.passage is not None
    first.passage.note_first_token()
    assert desk.take_all("a") == [1, 2]
    end(second)
    assert desk.take_all("a") == [11]


def test_a_replica_that_must_wait_claims_only_so_many_groups() -> None:
    groups = [group_of([line], 1, line + 2) for line in range(1000)]
    desk = Desk(groups, "a", "b", habit=CacheHabit.PREFIX_LEADER)
    assert desk.take_line("a") == 0
    assert desk.take("a") is None
    assert desk.take_line("b") == 1 + lane_module._PARKED_MAX
    assert desk.take("b") is None


def test_slots_to_spare_get_lines_of_a_group_whose_answers_are_long() -> None:
    groups = [
        group_of(range(3), 1, prefix_bytes=1000, answer_tokens=5000),
        group_of(range(10, 15), 2, prefix_bytes=1000, answer_tokens=5000),
        group_of(range(20, 30), 3, prefix_bytes=1000, answer_tokens=100),
    ]
    desk = Desk(groups, "a", habit=CacheHabit.SLOT_AFFINITY)
    # First a slot for each prefix; then more for the largest that pays, never for that of the short answers.
    assert desk.take_all("a") == [0, 10, 20, 11, 12, 1, 13, 2, 14]
    assert desk.lane.unsent == 9


def test_a_group_that_was_given_more_slots_goes_on_as_before_when_one_is_free() -> None:
    desk = Desk([group_of(range(4), 1, answer_tokens=1000)], "a", habit=CacheHabit.SLOT_AFFINITY)
    jobs = [desk.take("a") for _ in range(3)]
    end(jobs[0])
    assert desk.take_line("a") == 3
    assert desk.lane.unsent == 0
    end(jobs[1])
    end(jobs[2])
    assert desk.take("a") is None


def test_a_closed_lane_gives_nothing_and_takes_nothing_back() -> None:
    desk = Desk([group_of([0, 1, 2])], "a")
    desk.take("a")
    desk.lane.close()
    desk.lane.put_back(0)
    assert desk.take("a") is None
    assert desk.lane.unsent == 0


def test_a_line_that_waits_for_its_next_try_comes_back_in_time() -> None:
    async def check() -> None:
        desk = Desk([group_of([0])], "a")
        desk.take("a")
        desk.lane.put_back_later(0, 2.5)
        assert (desk.lane.unsent, desk.lane.delayed, desk.take("a")) == (0, 1, None)
        await asyncio.sleep(2.6)
        assert (desk.lane.unsent, desk.lane.delayed, desk.take_line("a")) == (1, 0, 0)

    run_virtual(check())


NAMES = ("a", "b", "c")
CHAINS = st.sampled_from([(), (1,), (1, 2), (1, 2, 3), (1, 4), (5,), (5, 6)])
GROUPS = st.lists(st.tuples(CHAINS, st.integers(1, 7), st.booleans()), max_size=10)


class Interleavings(RuleBasedStateMachine):
    """Up to three replicas take, finish, lose and give back in any order."""

    @initialize(sizes=GROUPS, replicas=st.integers(1, 3), habit=st.sampled_from(CacheHabit))
    def begin(self, sizes: list[tuple[tuple[int, ...], int, bool]], replicas: int, habit: CacheHabit) -> None:
        groups, self.total = [], 0
        for chain, size, is_long in sizes:
            groups.append(group_of(range(self.total, self.total + size), *chain, answer_tokens=9 * is_long))
            self.total += size
        self.desk = Desk(groups, *NAMES[:replicas], habit=habit)
        self.out: list[Job] = []
        self.times: Counter[int] = Counter()
        self.returned: Counter[int] = Counter()

    @rule(replica=st.integers(0, 2))
    def take(self, replica: int) -> None:
        job = self.desk.take(NAMES[replica % len(self.desk.gates)])
        if job is not None:
            self.out.append(job)
            self.times[job.line] += 1

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def come_to_the_first_token(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.out))
        if job.passage is not None:
            job.passage.note_first_token()

    @precondition(lambda self: self.out)
    @rule(data=st.data(), computed=st.booleans())
    def finish(self, data: st.DataObject, computed: bool) -> None:
        end(self._land(data), computed=computed)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        job = self._land(data)
        self.returned[job.line] += 1
        self.desk.lane.put_back(job.line)
        end(job, computed=False)

    @invariant()
    def every_line_is_given_out_once_or_once_more_for_each_return(self) -> None:
        for line, times in self.times.items():
            assert times <= 1 + self.returned[line]

    @invariant()
    def the_unsent_are_counted_right(self) -> None:
        assert self.desk.lane.unsent == self.total - sum(self.times.values()) + sum(self.returned.values())

    def teardown(self) -> None:
        """Whatever has happened, the replicas can always finish, also if but one of them goes on."""
        if not hasattr(self, "desk"):
            return
        name = NAMES[len(self.out) % len(self.desk.gates)]
        while self.out or self.desk.lane.unsent:
            job = self.desk.take(name)
            if job is not None:
                self.times[job.line] += 1
                self.out.append(job)
            else:
                assert self.out, "lines are left that nobody is given"
                end(self.out.pop(), computed=True)
        assert self.times == Counter(range(self.total)) + self.returned
        for gate in self.desk.gates.values():
            assert gate._busy == {}

    def _land(self, data: st.DataObject) -> Job:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
