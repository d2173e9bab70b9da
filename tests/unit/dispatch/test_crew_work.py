"""When batches will be done, as a process without engines says it from rows and from what workers tell."""

from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import text

from backfill.batch import Batch, Counts, Reservation, State, Usage
from backfill.dispatch import CrewWork, Forecaster, OwnWork
from backfill.dispatch.pace import Pace
from backfill.dispatch.tally import Tally
from backfill.dispatch.told_work import ToldWork
from backfill.dispatch.work_left import WorkLeft
from backfill.engines import Fleet, Member
from backfill.plan import Need
from backfill.status import Offer, WorkerReport, WorkerStatus
from backfill.store import Metadata
from backfill.turns import Turn
from tests.support.feeding import ENDPOINT, FakeReplica, make_replies
from tests.support.rows import RowsPlace

NOW_MS = 1_000_000
DAY_MS = 86_400_000
LINES_PER_TURN = 100
OFFERS = {"gpu": Offer(("m",), (ENDPOINT,))}


@dataclass
class Living:
    """Workers that tell what a test says."""

    living: Sequence[WorkerStatus] = field(default_factory=list)


def tell(worker: str, each_s: float | None = 0.01, **report: Any) -> WorkerStatus:
    told: dict[str, Any] = {"offers": OFFERS, "token_s": {} if each_s is None else {"gpu": (0.0, each_s)}} | report
    return WorkerStatus(
        id=worker,
        role="work",
        host="h",
        pid=1,
        version="1",
        started_at_ms=0,
        seen_at_ms=NOW_MS,
        report=WorkerReport(**told),
    )


def make_batch(name: str, tokens: int, lines: int = 10, **members: Any) -> Batch:
    usual: dict[str, Any] = {
        "owner": "o",
        "endpoint": ENDPOINT,
        "input_file_id": "file-1",
        "input_size_bytes": 1,
        "state": State.IN_PROGRESS,
        "created_at_ms": NOW_MS,
        "deadline_at_ms": NOW_MS + DAY_MS,
        "model_id": "m",
        "counts": Counts(total=lines),
        "reserved": {"m": Reservation(lines, 0, tokens)},
    }
    return Batch(id=name, **usual | members)


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    metadata = await Metadata.open(rows.make_driver())
    yield metadata
    await metadata.close()


@pytest.fixture
def crew() -> Living:
    return Living([tell("one")])


@pytest.fixture
def make(crew: Living, metadata: Metadata) -> Callable[[], Forecaster]:
    """One that has not looked yet."""

    def make_one() -> Forecaster:
        work = CrewWork(crew, metadata.database, LINES_PER_TURN, lambda name: "m" if name == "alias" else name)
        return Forecaster(metadata.database, work, lambda: NOW_MS)

    return make_one


Make = Callable[[], Forecaster]


async def find_s(forecaster: Forecaster, batch: Batch) -> float | None:
    found = await forecaster.find(batch)
    return None if found is None else (found.done_at_ms - NOW_MS) / 1000


async def cut(metadata: Metadata, batch: Batch, slices: int, drained: int) -> Batch:
    """The batch as it stands once it is admitted in slices, some of which are done."""
    await metadata.add_batch(batch)
    statements = [
        (f"UPDATE batches SET slices = {slices} WHERE id = '{batch.id}'"),
        *(
            "INSERT INTO slices (batch_id, number, lease_until_ms, epoch, drained_as) "
            f"VALUES ('{batch.id}', {number}, 0, 0, {number if number <= drained else 'NULL'})"
            for number in range(1, slices + 1)
        ),
    ]

    def change(connection: Any) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await metadata.database.write(change)
    return await metadata.get_batch(batch.id)


def make_work() -> WorkLeft:
    """A hundred lines, each guessed to need 10 tokens of a prompt and 50 of an answer."""
    columns = {"models": array("I", [0] * 100), "answer_tokens": array("I", [50] * 100)}
    columns["token_estimates"] = array("I", [60] * 100)
    work = WorkLeft(cast("Any", type("Index", (), columns)), {0: Need(1000, 5000)})
    work.set_pool(0, frozenset({"gpu"}))
    return work


async def test_without_workers_nothing_is_said(make: Make, crew: Living, metadata: Metadata) -> None:
    batch = make_batch("one", 1000)
    await metadata.add_batch(batch)
    crew.living = []
    assert await make().find(batch) is None
    crew.living = [tell("one", None)]
    assert await make().find(batch) is None
    crew.living = [tell("one", offers={"gpu": Offer(("other",), (ENDPOINT,))})]
    assert await make().find(batch) is None


async def test_an_ended_batch_tells_where_workers_tell_nothing_yet(
    make: Make, crew: Living, metadata: Metadata
) -> None:
    ended: dict[str, Any] = {"state": State.COMPLETED, "started_at_ms": 0, "closing_at_ms": 10_000}
    await metadata.add_batch(make_batch("x", 1000, **ended | {"counts": Counts(10, 10, 0, Usage(0, 500))}))
    crew.living = [tell("one", None)]
    # 500 tokens in 10 s, where 1,000 were guessed.
    assert await find_s(make(), make_batch("next", 400)) == pytest.approx(4, abs=0.1)


async def test_it_is_what_the_worker_itself_would_say(make: Make, crew: Living, metadata: Metadata) -> None:
    tally = Tally()
    pace = Pace(tally)
    for now_s in range(60):
        tally.add(make_replies(Usage(20, 70), 1.0))
        pace.tick(float(now_s), 1, is_full=True)
    work = make_work()
    at_work = make_batch("at-work", 5000)
    waiting = make_batch("waiting", 3000, created_at_ms=NOW_MS + 1)
    for batch in (at_work, waiting):
        await metadata.add_batch(batch)
    for line in range(40):
        work.note(line, Usage(8, 20))

    source = cast("Any", SimpleNamespace(paces={"gpu": pace}, work_left=[(Turn(at_work, 1), work)]))
    fleet = Fleet([Member(FakeReplica("gpu"), {"m": ""})])
    own = Forecaster(metadata.database, OwnWork(metadata.database, source, fleet), lambda: NOW_MS)
    report = WorkerReport(offers=OFFERS, token_s={"gpu": pace.speed.token_s}, batches=("at-work",))
    crew.living = [msgspec.structs.replace(tell("one"), report=ToldWork().add(report, source.work_left))]
    told = make()
    for batch in (at_work, waiting, make_batch("new", 700, created_at_ms=NOW_MS + 2)):
        expected = await find_s(own, batch)
        assert expected is not None
        assert await find_s(told, batch) == pytest.approx(expected, rel=0.01)


async def test_the_speeds_of_several_workers_add_up(make: Make, crew: Living, metadata: Metadata) -> None:
    crew.living = [tell("one"), tell("two", 0.02)]
    large = make_batch("large", 30_000, lines=1000)
    await metadata.add_batch(large)
    # 100 and 50 tokens a second.
    assert await find_s(make(), large) == pytest.approx(200, abs=1)


async def test_one_that_tells_no_speed_yet_is_taken_to_be_as_its_like(
    make: Make, crew: Living, metadata: Metadata
) -> None:
    crew.living = [tell("one"), tell("two", None), tell("three", None, offers={"cpu": Offer(("m",), (ENDPOINT,))})]
    large = make_batch("large", 30_000, lines=1000)
    await metadata.add_batch(large)
    assert await find_s(make(), large) == pytest.approx(150, abs=1)


async def test_one_worker_at_a_time_works_on_a_batch_that_is_not_cut(
    make: Make, crew: Living, metadata: Metadata
) -> None:
    crew.living = [tell("one", 0.01), tell("two", 0.02, batches=("held",), work_left={"held": (0.0, 1000.0)})]
    small, held = make_batch("small", 1000), make_batch("held", 5000, owner="p")
    await metadata.add_batch(small)
    assert await find_s(make(), small) == pytest.approx(10, abs=0.1)
    await metadata.add_batch(held)
    assert await find_s(make(), held) == pytest.approx(20, abs=0.1)
    # Many of them are worked on side by side all the same.
    for number in range(40):
        await metadata.add_batch(make_batch(f"more-{number}", 1500, deadline_at_ms=NOW_MS + DAY_MS - 1))
    assert await find_s(make(), small) == pytest.approx((40 * 1500 + 1000 + 1000) / 150, rel=0.05)


async def test_of_a_batch_that_was_cut_it_is_known_how_far_open_slices_are(
    make: Make, crew: Living, metadata: Metadata
) -> None:
    batch = await cut(metadata, make_batch("cut", 10_000, lines=1000), slices=10, drained=4)
    # Six are left, and nobody tells of them.
    crew.living = [tell("one"), tell("two")]
    assert await find_s(make(), batch) == pytest.approx(6000 / 200, rel=0.01)
    # Three are open, with 150 tokens left of them together.
    crew.living = [
        tell("one", batches=("cut",), slice_work={"cut": (2, 0.0, 100.0)}),
        tell("two", batches=("cut",), slice_work={"cut": (1, 0.0, 50.0)}),
    ]
    assert await find_s(make(), batch) == pytest.approx((3000 + 150) / 200, rel=0.01)
    # All that is left is open; one was drained since it was told.
    crew.living = [tell("one", batches=("cut",), slice_work={"cut": (7, 0.0, 300.0)})]
    assert await find_s(make(), batch) == pytest.approx(3, rel=0.01)


async def test_what_lines_came_to_corrects_the_guess_for_those_that_wait(
    make: Make, crew: Living, metadata: Metadata
) -> None:
    batch = await cut(metadata, make_batch("cut", 10_000, lines=1000), slices=10, drained=0)
    crew.living = [tell("one", slice_work={"cut": (1, 0.0, 10.0)}, ratios={"gpu": (1.0, 0.1)})]
    assert await find_s(make(), batch) == pytest.approx((900 + 10) / 100, rel=0.01)


async def test_an_alias_and_an_engine_that_takes_any_model(make: Make, crew: Living, metadata: Metadata) -> None:
    named = make_batch("named", 1000, model_id="alias", reserved={"alias": Reservation(10, 0, 1000)})
    await metadata.add_batch(named)
    assert await find_s(make(), named) == pytest.approx(10, abs=0.1)
    crew.living = [tell("one", offers={"gpu": Offer(("*",), (ENDPOINT,))})]
    assert await find_s(make(), named) == pytest.approx(10, abs=0.1)
    crew.living = [tell("one", offers={"gpu": Offer(("*",), ("/v1/embeddings",))})]
    assert await find_s(make(), named) is None


def test_a_worker_tells_of_whole_batches_and_of_slices_apart() -> None:
    whole, sliced, told = make_batch("whole", 5000), make_batch("cut", 50_000, slices=9), ToldWork()
    done = make_work()
    for line in range(100):
        done.note(line, Usage(10, 25))
    turns = [(Turn(whole, 1), done), *((Turn(sliced, 1, slice_number=number), make_work()) for number in (3, 7))]
    report = told.add(WorkerReport(any_model_at=("x",)), turns)
    assert report.any_model_at == ("x",)
    assert report.work_left == {"whole": (0.0, 0.0)}
    ((name, (slices, prompt_tokens, completion_tokens)),) = report.slice_work.items()
    assert (name, slices) == ("cut", 2)
    # Of slices on which nothing is done yet what other lines came to tells: half of what was guessed.
    assert [prompt_tokens, completion_tokens] == pytest.approx([2000, 5000], rel=0.1)
    assert [*report.ratios] == ["gpu"]
    assert report.ratios["gpu"] == pytest.approx((1, 0.5), rel=0.1)
    # And is still known when none is worked on.
    assert told.add(WorkerReport(), []).ratios == report.ratios
