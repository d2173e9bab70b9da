"""How many slices of a batch a worker holds: as few as keep its engines busy."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from backfill.batch import Batch, Counts, State
from backfill.dispatch.slice_supply import OPEN_SLICES_MAX, count_lacking_lines
from backfill.dispatch.works import Work, Works
from backfill.status import Urgency
from backfill.turns import Turn

SLICES = 40


def make_batch(name: str = "batch", lines: int = 4000) -> Batch:
    return Batch(
        id=name,
        owner="o",
        endpoint="/v1/chat/completions",
        input_file_id="file",
        input_size_bytes=1,
        state=State.IN_PROGRESS,
        created_at_ms=1,
        deadline_at_ms=2,
        counts=Counts(total=lines),
        slices=SLICES,
    )


@dataclass
class FakeLane:
    """Lines of one slice for one model."""

    turn: Any
    unsent: int
    delayed: int = 0
    is_open: bool = True


@dataclass
class FakeFeeder:
    """What a replica has."""

    lanes: list[FakeLane] = field(default_factory=list)
    in_flight: int = 0
    requests_per_s: float = 0.0
    concurrency_limit: int = 0
    is_well: bool = True

    @property
    def tally(self) -> Any:
        return SimpleNamespace(requests_per_s=self.requests_per_s)


class World:
    """Open slices of one batch, each with some lines left for each of the replicas."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.works = Works()
        self.numbers: Counter[str] = Counter()

    def add(self, *, opened: bool = True) -> Work:
        self.numbers["slice"] += 1
        work = Work(Turn(self.batch, 1, slice_number=self.numbers["slice"]), asyncio.Event())
        if opened:
            work.opened = SimpleNamespace(turn=work.turn)  # type: ignore[assignment]
        self.works.add(work)
        return work

    def lane(self, work: Work, unsent: int, delayed: int = 0) -> FakeLane:
        return FakeLane(SimpleNamespace(turn=work.turn), unsent, delayed)

    def count(self, *feeders: FakeFeeder) -> int:
        return self.works.count_lacking(self.batch, feeders)  # type: ignore[arg-type]


def test_a_slice_with_enough_lines_left_is_enough() -> None:
    world = World(make_batch())
    work = world.add()
    assert world.count(FakeFeeder([world.lane(work, 60)], in_flight=30)) == 0
    assert world.count(FakeFeeder([world.lane(work, 59)], in_flight=30)) == 1
    assert world.count(FakeFeeder([world.lane(work, 40, delayed=20)], in_flight=30)) == 0


def test_a_fast_engine_has_as_many_as_it_does_until_the_next_look() -> None:
    world = World(make_batch())
    work = world.add()
    assert world.count(FakeFeeder([world.lane(work, 0)], in_flight=8, requests_per_s=200)) == 4
    assert world.count(FakeFeeder([world.lane(work, 0)], requests_per_s=1e6)) == OPEN_SLICES_MAX - 1


def test_what_is_being_opened_counts() -> None:
    world = World(make_batch())
    work = world.add()
    world.add(opened=False)
    assert world.count(FakeFeeder([world.lane(work, 0)], in_flight=50)) == 0
    assert world.count(FakeFeeder([world.lane(work, 0)], in_flight=51)) == 1


def test_an_engine_that_is_out_takes_none_and_keeps_none_from_another() -> None:
    world = World(make_batch())
    work = world.add()
    stuck = FakeFeeder([world.lane(work, 50)], is_well=False)
    assert world.count(stuck) == 0
    assert world.count(stuck, FakeFeeder([world.lane(work, 0)], in_flight=10)) == 1


def test_an_engine_without_lines_of_the_batch_asks_for_none() -> None:
    world = World(make_batch())
    work, other = world.add(), World(make_batch("another"))
    foreign = other.lane(other.add(), 0)
    enough = FakeFeeder([world.lane(work, 90)])
    assert world.count(enough, FakeFeeder([foreign], in_flight=9), FakeFeeder()) == 0


def test_when_all_that_is_open_is_sent_another_is_taken() -> None:
    world = World(make_batch())
    world.add().over.set()
    assert world.count(FakeFeeder()) == 1


def test_slices_of_one_batch_are_one_batch() -> None:
    world = World(make_batch())
    first, second = world.add(opened=False), world.add()
    assert [batch.id for batch in world.works.list_batches()] == ["batch"]
    assert world.works.find("batch") == [first, second]
    assert world.works.find("another") == []
    first.let_land()
    assert [turn.slice_number for turn in world.works.list_turns(landing=True)] == [1]


def test_nothing_is_lacking_where_there_is_plenty() -> None:
    assert count_lacking_lines(1000, 10, 100.0, 0) == 0
    assert count_lacking_lines(0, 0, 0.0, 0) > 0


def test_what_is_here_is_told_by_owner_and_by_deadline() -> None:
    world = World(make_batch())
    world.add(opened=False)
    world.add().opened = SimpleNamespace(lines_left=30)  # type: ignore[assignment]
    world.add(opened=False).is_done = True
    feeders: Any = [FakeFeeder(requests_per_s=3.0, concurrency_limit=5), FakeFeeder(requests_per_s=2.0)]
    stock = world.works.take_stock(feeders)
    assert (stock.lines, stock.enough) == ({"o": 130}, 50)
    assert stock.is_enough
    assert (stock.count_due(1), stock.count_due(2)) == (0, 130)
    world.works.urgency = Urgency(given_up=frozenset({"batch"}))
    stock = world.works.take_stock(feeders)
    assert (stock.is_enough, stock.count_due(2)) == (True, 0)
