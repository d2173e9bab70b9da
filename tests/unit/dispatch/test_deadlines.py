"""Which deadlines are in danger among all that waits: what is found, who finds it, and who reads what was found."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from backfill.batch import Batch, Counts, Reservation, State
from backfill.dispatch import Crew, CrewWork, Deadlines, Weighed, Weighing, find_urgency
from backfill.errors import StoreUnavailable
from backfill.plan import Job
from backfill.status import Offer, Urgency, WorkerReport, WorkerStatus
from backfill.store import Leases, Metadata, Workers
from backfill.turns import DEADLINES, Duties
from tests.support.feeding import ENDPOINT
from tests.support.rows import RowsPlace

NOW_MS = 1_000_000
LEASE_MS = 30_000
MINUTE_MS = 60_000
ALL = frozenset({"gpu@one", "gpu@two"})
LINES = Urgency.name_lines(ENDPOINT, "m")


def make_batch(name: str, left_ms: int, tokens: int = 1000, **members: Any) -> Batch:
    usual: dict[str, Any] = {
        "owner": "o",
        "endpoint": ENDPOINT,
        "input_file_id": "file-1",
        "input_size_bytes": 1,
        "state": State.IN_PROGRESS,
        "created_at_ms": NOW_MS,
        "deadline_at_ms": NOW_MS + left_ms,
        "model_id": "m",
        "counts": Counts(total=10),
        "reserved": {"m": Reservation(10, 0, tokens)},
    }
    return Batch(id=name, **usual | members)


def make_job(name: str, work_s: float, left_s: float, pool: frozenset[str] = ALL) -> Job:
    return Job(name, "o", (), pool, work_s, left_s, 1.0)


def judge(jobs: Sequence[Job], least_s: dict[str, float] | None = None) -> dict[str, str]:
    """Batch -> what is said of it."""
    pools = {LINES: ALL, Urgency.name_lines(ENDPOINT, "n"): frozenset({"cpu@one"})}
    urgency = find_urgency(Weighed(NOW_MS, (), {}, (), [*jobs], set()), least_s or {}, pools)
    said: dict[str, str] = {}
    for job in jobs:
        model = "m" if job.pool == ALL else "n"
        batch = make_batch(job.batch, round(1000 * job.left_s), model_id=model, reserved={model: Reservation(1, 0, 1)})
        if job.batch in urgency.given_up:
            said[job.batch] = "given up"
        elif urgency.is_endangered(batch):
            said[job.batch] = "endangered"
        elif urgency.is_pressed(batch):
            said[job.batch] = "pressed"
    return said


def test_what_has_plenty_of_time_is_in_no_danger() -> None:
    assert judge([make_job("one", 100, 10_000), make_job("two", 100, 10_001)]) == {}
    assert judge([]) == {}


def test_many_are_in_danger_together_of_which_each_has_plenty_of_time() -> None:
    jobs = [make_job(f"small-{number}", 95, 1_000 + number) for number in range(10)]
    slack = make_job("slack", 100, 100_000)
    assert judge([*jobs, slack]) == dict.fromkeys((job.batch for job in jobs), "endangered")
    # With half of them there is time for something else yet, but not for much.
    assert judge([*jobs[:4], slack]) == dict.fromkeys((job.batch for job in jobs[:4]), "pressed")


def test_what_has_no_time_any_more_goes_before_nobody() -> None:
    jobs = [make_job("giant", 5_000, 1_000), make_job("small", 900, 1_001), make_job("later", 10, 100_000)]
    assert judge(jobs) == {"giant": "given up", "small": "endangered"}


def test_the_last_turn_on_a_batch_takes_its_time() -> None:
    job = make_job("one", 10, 500)
    assert judge([job]) == {}
    assert judge([job], {"one": 490}) == {"one": "endangered"}
    assert judge([job], {"one": 460}) == {"one": "pressed"}
    other = make_job("other", 480, 500)
    assert judge([job, other], {"one": 505}) == {"one": "given up", "other": "endangered"}


def test_who_serves_other_models_has_nothing_to_do_with_it() -> None:
    jobs = [make_job("one", 95, 100), make_job("other", 10, 150, frozenset({"cpu@one"}))]
    assert judge(jobs) == {"one": "endangered"}


@dataclass
class Clock:
    """That of the database."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class Process:
    """One with engines, as far as deadlines go."""

    def __init__(self, name: str, metadata: Metadata, clock: Clock) -> None:
        self.heard: list[Urgency] = []
        database = metadata.database
        workers = Workers(database)
        crew = Crew(workers, clock, LEASE_MS)
        weighing = Weighing(database, CrewWork(crew, database, 2_000), clock)
        duties = Duties(Leases(database, name, clock, LEASE_MS))
        self.deadlines = Deadlines(weighing, crew, workers, duties, clock, self._hear)
        self._name, self._workers, self._clock = name, workers, clock
        self._hears = asyncio.Event()

    async def tell(self) -> None:
        """As its heartbeat does."""
        report = WorkerReport(
            offers={"gpu": Offer(("m",), (ENDPOINT,))}, token_s={"gpu": (0.0, 0.1)}, urgency=self.deadlines.told
        )
        now = self._clock()
        status = WorkerStatus(
            id=self._name,
            role="work",
            host=self._name,
            pid=1,
            version="1",
            started_at_ms=0,
            seen_at_ms=now,
            report=report,
        )
        await self._workers.tell(status, 0)

    async def look(self) -> Urgency:
        """Run until it has said something; then stop."""
        self._hears.clear()
        self.deadlines._stopping.clear()
        running = asyncio.create_task(self.deadlines.run())
        await self._hears.wait()
        self.deadlines.stop()
        await running
        return self.heard[-1]

    def _hear(self, urgency: Urgency) -> None:
        self.heard.append(urgency)
        self._hears.set()


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    metadata = await Metadata.open(rows.make_driver())
    yield metadata
    await metadata.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def start(metadata: Metadata, clock: Clock) -> Callable[[str], Process]:
    return lambda name: Process(name, metadata, clock)


async def test_one_judges_with_all_that_all_can_do_and_the_other_reads_it(
    start: Callable[[str], Process], metadata: Metadata, clock: Clock
) -> None:
    one, two = start("one"), start("two")
    # Each takes one of them 50 s, of 140 that are left: together they can do all four.
    near = [make_batch(f"near-{number}", 140_000, 500) for number in range(4)]
    slack = make_batch("far", 3_600_000)
    for batch in (*near, slack):
        await metadata.add_batch(batch)
    for process in (one, two):
        await process.tell()
    found = await one.look()
    assert ([found.is_endangered(batch) for batch in near], found.is_pressed(slack)) == ([True] * 4, False)
    assert await two.look() == Urgency()
    await one.tell()
    assert await two.look() == found
    assert two.deadlines.told is None
    # Without the other it can do but two of them in the time that is left.
    clock.now_ms += 16_000
    await one.tell()
    assert len((await one.look()).given_up) == 2


async def have_judged(start: Callable[[str], Process], metadata: Metadata) -> tuple[Process, Batch]:
    """A process beside one that has told of a batch that is pressed for time."""
    one, batch = start("one"), make_batch("near", 200_000)
    await metadata.add_batch(batch)
    await one.tell()
    assert (await one.look()).is_pressed(batch)
    await one.tell()
    return start("two"), batch


async def test_another_one_judges_when_that_one_is_gone_and_what_is_old_is_not_believed(
    start: Callable[[str], Process], metadata: Metadata, clock: Clock
) -> None:
    two, batch = await have_judged(start, metadata)
    clock.now_ms += LEASE_MS - 1000
    assert (await two.look()).is_pressed(batch)
    clock.now_ms += 2000
    await two.tell()
    assert (await two.look()).judged_at_ms == clock.now_ms
    assert two.deadlines.told is not None


async def test_what_was_told_more_than_a_minute_ago_is_not_believed(
    start: Callable[[str], Process], metadata: Metadata, clock: Clock
) -> None:
    two, _ = await have_judged(start, metadata)
    leases = Leases(metadata.database, "one", clock, LEASE_MS)
    clock.now_ms += MINUTE_MS + 1
    # It has its duty, and does nothing for it.
    assert await leases.take(DEADLINES)
    assert await two.look() == Urgency()


@pytest.mark.parametrize("failure", [StoreUnavailable("The disk is out."), ValueError("a row of another release")])
async def test_what_cannot_be_judged_is_judged_again_and_what_was_known_is_believed_for_a_minute(
    start: Callable[[str], Process],
    metadata: Metadata,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    one = start("one")
    batch = make_batch("near", 250_000)
    await metadata.add_batch(batch)
    await one.tell()
    assert (await one.look()).is_pressed(batch)

    async def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr("backfill.dispatch.weighing.read_queue", fail)
        assert (await one.look()).is_pressed(batch)
        clock.now_ms += MINUTE_MS
        assert await one.look() == Urgency()
    await one.tell()
    assert (await one.look()).is_pressed(batch)
