"""Lines that wait for what they name: none lost, none given twice, the counts true, and groups that stay together."""

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backfill.config import MediaConfig
from backfill.dispatch import media_ahead
from backfill.dispatch.lane import Job
from backfill.dispatch.media_lane import MediaLane
from backfill.dispatch.prefix_gate import PrefixGate
from backfill.engines import CacheHabit, Route
from backfill.media import Named
from backfill.plan import LineGroup
from tests.support.feeding import ENDPOINT, FakeReplica, group_of, make_turn

if TYPE_CHECKING:
    from backfill.dispatch.turn_media import TurnMedia

NAMES = ("a", "b", "c")


class Desk:
    """A lane of which every line in `naming` names a picture; `bring` stands for the fetching of one."""

    def __init__(
        self, groups: list[LineGroup], naming: set[int], *names: str, habit: CacheHabit = CacheHabit.NONE
    ) -> None:
        replicas = tuple(FakeReplica(name) for name in names)
        route = Route("m", ENDPOINT, replicas, dict.fromkeys(names, "m"))
        media = cast(
            "TurnMedia",
            SimpleNamespace(hold=None, config=MediaConfig(), may_name=lambda line: line in naming),
        )
        self.lane = MediaLane(make_turn(*groups), route, groups, media, insert_model=False)
        self.gates = {name: PrefixGate(habit, 1, self._release_at(name)) for name in names}
        self.fetching: list[tuple[int, Any]] = []

    def take(self, name: str) -> Job | None:
        return self.lane.take(name, self.gates[name])

    def take_all(self, name: str) -> list[int]:
        lines = []
        while (job := self.take(name)) is not None:
            lines.append(job.line)
        return lines

    def look_ahead(self, count: int) -> None:
        """Begin with so many more fetches."""
        ahead = self.lane._ahead
        for _ in range(count):
            line, group = (ahead._again.popleft(), None) if ahead._again else next(ahead._coming, (None, None))
            if line is not None:
                self.fetching.append((line, group))

    def bring(self, position: int) -> None:
        """One of the fetches is done."""
        line, group = self.fetching.pop(position)
        self.lane._ahead._named[line] = Named()
        self.lane._ahead._untaken[line] = 0
        self.lane.note_ready(line, group)

    def bring_all(self) -> None:
        self.look_ahead(1000)
        while self.fetching:
            self.bring(0)

    def _release_at(self, name: str) -> Any:
        return lambda prefix: self.lane.release(name, prefix)


def without_fetching(monkeypatch: Any) -> None:
    monkeypatch.setattr(media_ahead.MediaAhead, "advance", lambda self: None)


def test_lines_that_name_nothing_go_on_and_the_others_come_first_once_they_are_here(monkeypatch: Any) -> None:
    without_fetching(monkeypatch)
    desk = Desk([group_of(range(6))], {0, 1, 4}, "a")
    assert (desk.lane.unsent, desk.lane.delayed, desk.lane.awaited) == (3, 3, 3)
    job = desk.take("a")
    assert job is not None
    assert job.line == 2
    desk.look_ahead(2)
    desk.bring(1)
    assert (desk.lane.unsent, desk.lane.delayed, desk.lane.awaited) == (3, 2, 2)
    assert desk.take_all("a") == [1, 3, 5]
    desk.bring_all()
    assert desk.take_all("a") == [0, 4]
    assert (desk.lane.unsent, desk.lane.delayed, desk.lane.awaited) == (0, 0, 0)


def test_a_group_stays_on_the_replica_that_began_it_however_its_pictures_come(monkeypatch: Any) -> None:
    without_fetching(monkeypatch)
    groups = [group_of(range(10), 1), group_of(range(10, 20), 2)]
    desk = Desk(groups, set(range(20)), "a", "b")
    desk.look_ahead(20)
    taken: dict[str, list[int]] = {"a": [], "b": []}
    for position in (0, 9):  # the first line of each group
        desk.bring(position)
    for name in "ab":
        job = desk.take(name)
        assert job is not None
        taken[name].append(job.line)
    while desk.fetching:
        for position in (len(desk.fetching) - 1, 0):
            if desk.fetching:
                desk.bring(position)
        for name in "ab":
            job = desk.take(name)
            if job is not None:
                taken[name].append(job.line)
    for name in "ab":
        taken[name] += desk.take_all(name)
    assert sorted(taken["a"] + taken["b"]) == list(range(20))
    assert {line // 10 for line in taken["a"]} == {0}
    assert {line // 10 for line in taken["b"]} == {1}


def test_a_fresh_group_does_not_wait_for_all_lines_that_name_nothing(monkeypatch: Any) -> None:
    without_fetching(monkeypatch)
    desk = Desk([group_of(range(100)), group_of([100, 101], 1)], {100, 101}, "a")
    assert desk.take("a") == Job(0, None)
    desk.bring_all()
    job = desk.take("a")
    assert job is not None
    assert job.line == 100


def test_a_leader_holds_back_those_whose_pictures_are_here_already(monkeypatch: Any) -> None:
    without_fetching(monkeypatch)
    desk = Desk([group_of(range(4), 1)], set(range(4)), "a", habit=CacheHabit.PREFIX_LEADER)
    desk.bring_all()
    leader = desk.take("a")
    assert leader is not None
    assert desk.take("a") is None
    assert leader.passage is not None
    leader.passage.note_first_token()
    assert desk.take_all("a") == [1, 2, 3]


def test_a_closed_lane_takes_nothing_in(monkeypatch: Any) -> None:
    without_fetching(monkeypatch)
    desk = Desk([group_of(range(4), 1), group_of([4])], set(range(5)), "a")
    desk.look_ahead(5)
    desk.lane.close()
    while desk.fetching:
        desk.bring(0)
    desk.lane.put_back(0)
    assert (desk.lane.unsent, desk.take("a")) == (0, None)


CHAINS = st.sampled_from([(), (1,), (1, 2), (1, 2, 3), (1, 4), (5,), (5, 6)])
GROUPS = st.lists(st.tuples(CHAINS, st.integers(1, 7), st.booleans()), max_size=10)


class Interleavings(RuleBasedStateMachine):
    """Replicas take, finish, lose and give back; pictures come in any order, and some have to be fetched again."""

    def __init__(self) -> None:
        super().__init__()
        # Not in `begin`, which may be broken off half-way: then nothing would be fetched in any later test.
        self.patch = patch.object(media_ahead.MediaAhead, "advance", lambda _: None)
        self.patch.start()

    @initialize(sizes=GROUPS, replicas=st.integers(1, 3), habit=st.sampled_from(CacheHabit), data=st.data())
    def begin(
        self,
        sizes: list[tuple[tuple[int, ...], int, bool]],
        replicas: int,
        habit: CacheHabit,
        data: st.DataObject,
    ) -> None:
        groups, self.total = [], 0
        for chain, size, is_long in sizes:
            groups.append(group_of(range(self.total, self.total + size), *chain, answer_tokens=9 * is_long))
            self.total += size
        self.naming = set(data.draw(st.lists(st.integers(0, max(0, self.total - 1)), unique=True)))
        self.desk = Desk(groups, self.naming, *NAMES[:replicas], habit=habit)
        self.out: list[Job] = []
        self.times: Counter[int] = Counter()
        self.returned: Counter[int] = Counter()

    @rule(replica=st.integers(0, 2))
    def take(self, replica: int) -> None:
        job = self.desk.take(NAMES[replica % len(self.desk.gates)])
        if job is not None:
            self.out.append(job)
            self.times[job.line] += 1

    @rule(count=st.integers(1, 5))
    def look_ahead(self, count: int) -> None:
        self.desk.look_ahead(count)

    @precondition(lambda self: self.desk.fetching)
    @rule(data=st.data())
    def bring(self, data: st.DataObject) -> None:
        self.desk.bring(data.draw(st.integers(0, len(self.desk.fetching) - 1)))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def come_to_the_first_token(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.out))
        if job.passage is not None:
            job.passage.note_first_token()

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self._end(self._land(data), computed=True)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), is_gone=st.booleans())
    def come_back(self, data: st.DataObject, is_gone: bool) -> None:
        job = self._land(data)
        self.returned[job.line] += 1
        if is_gone and job.line in self.naming:
            self.desk.lane.await_media(job.line)
        else:
            self.desk.lane.put_back(job.line)
        self._end(job, computed=False)

    @invariant()
    def the_counts_are_true(self) -> None:
        if hasattr(self, "desk"):
            lane = self.desk.lane
            left = self.total - sum(self.times.values()) + sum(self.returned.values())
            assert lane.unsent + lane.awaited == left
            assert lane.awaited == lane.delayed

    def teardown(self) -> None:
        """Whatever has happened, one replica alone can always finish."""
        try:
            if hasattr(self, "desk"):
                self._finish()
        finally:
            self.patch.stop()

    def _finish(self) -> None:
        name = NAMES[len(self.out) % len(self.desk.gates)]
        self.desk.bring_all()
        while self.out or self.desk.lane.unsent:
            job = self.desk.take(name)
            if job is not None:
                self.times[job.line] += 1
                self.out.append(job)
            else:
                assert self.out, "lines are left that nobody is given"
                self._end(self.out.pop(), computed=True)
        assert self.times == Counter(range(self.total)) + self.returned
        assert self.desk.lane.delayed == 0

    def _land(self, data: st.DataObject) -> Job:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))

    @staticmethod
    def _end(job: Job, *, computed: bool) -> None:
        if job.passage is not None:
            job.passage.note_end(computed=computed)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
