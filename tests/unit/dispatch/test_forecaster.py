"""When batches will be done, from rows, from what engines did and from what is left of those at work."""

from array import array
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from backfill.batch import Batch, Counts, Reservation, State, Usage
from backfill.dispatch.forecaster import Forecaster
from backfill.dispatch.own_work import OwnWork
from backfill.dispatch.pace import Pace
from backfill.dispatch.tally import Tally
from backfill.dispatch.work_left import Ratios, WorkLeft
from backfill.engines import Fleet, Member
from backfill.errors import StoreUnavailable
from backfill.plan import Need
from backfill.store import Metadata
from backfill.turns import Turn
from tests.support.feeding import ENDPOINT, FakeReplica, make_replies
from tests.support.rows import RowsPlace

NOW_MS = 1_000_000
DAY_MS = 86_400_000
POOL = frozenset({"a"})


class KnownSource:
    """What a dispatcher would know."""

    def __init__(self) -> None:
        self.paces: dict[str, Pace] = {}
        self.work_left: list[tuple[Turn, WorkLeft]] = []

    def set_pace(self, replica: str, tokens_per_s: int) -> None:
        """The replica was full for a while."""
        tally = Tally()
        pace = self.paces[replica] = Pace(tally)
        for now_s in range(60):
            tally.add(make_replies(Usage(0, tokens_per_s), 1.0))
            pace.tick(float(now_s), 1, is_full=True)


def make_batch(name: str, tokens: int = 0, **members: Any) -> Batch:
    usual: dict[str, Any] = {
        "owner": "o",
        "endpoint": ENDPOINT,
        "input_file_id": "file-1",
        "input_size_bytes": 1,
        "state": State.IN_PROGRESS,
        "created_at_ms": NOW_MS,
        "deadline_at_ms": NOW_MS + DAY_MS,
        "model_id": "m",
        "reserved": {"m": Reservation(10, 0, tokens)} if tokens else {},
    }
    return Batch(id=name, **usual | members)


@pytest.fixture
def source() -> KnownSource:
    return KnownSource()


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    metadata = await Metadata.open(rows.make_driver())
    yield metadata
    await metadata.close()


@pytest.fixture
def forecaster(source: KnownSource, metadata: Metadata) -> Forecaster:
    fleet = Fleet([Member(FakeReplica("a"), {"m": "", "n": ""}), Member(FakeReplica("b"), {"other": ""})])
    return Forecaster(metadata.database, OwnWork(metadata.database, source, fleet), lambda: NOW_MS)


async def find_s(forecaster: Forecaster, batch: Batch) -> float | None:
    found = await forecaster.find(batch)
    return None if found is None else (found.done_at_ms - NOW_MS) / 1000


async def test_nothing_is_said_where_nothing_is_known(forecaster: Forecaster, metadata: Metadata) -> None:
    batch = make_batch("one", 1000)
    await metadata.add_batch(batch)
    assert await forecaster.find(batch) is None
    assert await forecaster.find(make_batch("unserved", 1000, model_id="x", reserved={})) is None
    assert await forecaster.find(make_batch("ended", 1000, state=State.COMPLETED)) is None


async def test_what_waits_before_it_counts_and_what_comes_later_counts_for_the_next(
    forecaster: Forecaster, source: KnownSource, metadata: Metadata
) -> None:
    source.set_pace("a", 100)
    first, second = make_batch("first", 1000), make_batch("second", 2000, deadline_at_ms=NOW_MS + 2 * DAY_MS)
    for batch in (first, second):
        await metadata.add_batch(batch)
    assert await find_s(forecaster, first) == pytest.approx(10, abs=0.1)
    assert await find_s(forecaster, second) == pytest.approx(30, abs=0.1)
    new = make_batch("new", 500, deadline_at_ms=NOW_MS + 3 * DAY_MS)
    assert (await forecaster.foresee(new)) == (await forecaster.foresee(new)), (
        "what is only asked about counts for none"
    )
    assert await find_s(forecaster, new) == pytest.approx(35, abs=0.1)
    newer = make_batch("newer", 500, deadline_at_ms=NOW_MS + 4 * DAY_MS)
    assert await find_s(forecaster, newer) == pytest.approx(40, abs=0.1)


async def test_who_asks_another_engine_waits_for_nobody(
    forecaster: Forecaster, source: KnownSource, metadata: Metadata
) -> None:
    source.set_pace("a", 100)
    source.set_pace("b", 10)
    await metadata.add_batch(make_batch("first", 1000))
    other = make_batch("other", 500, model_id="other", reserved={"other": Reservation(1, 0, 500)})
    assert await find_s(forecaster, other) == pytest.approx(50, abs=0.5)


async def test_a_deadline_that_will_be_missed_is_late(forecaster: Forecaster, source: KnownSource) -> None:
    source.set_pace("a", 100)
    for window_s, is_late in ((9, True), (11, False)):
        found = await forecaster.foresee(make_batch(str(window_s), 1000, deadline_at_ms=NOW_MS + 1000 * window_s))
        assert found is not None
        assert found.is_late == is_late


async def test_after_a_restart_what_ended_before_tells(forecaster: Forecaster, metadata: Metadata) -> None:
    ended: dict[str, Any] = {"state": State.COMPLETED, "started_at_ms": 0, "counts": Counts(10, 10, 0, Usage(0, 500))}
    # Side by side: in 20 s together 1,000 tokens, where 2,000 were guessed.
    await metadata.add_batch(make_batch("x", 1000, closing_at_ms=20_000, **ended))
    await metadata.add_batch(make_batch("y", 1000, closing_at_ms=10_000, **ended))
    assert await find_s(forecaster, make_batch("next", 400)) == pytest.approx(4, abs=0.1)


async def test_where_nothing_was_noted_the_size_of_the_file_tells(forecaster: Forecaster, metadata: Metadata) -> None:
    ended: dict[str, Any] = {"state": State.COMPLETED, "started_at_ms": 0, "closing_at_ms": 10_000}
    await metadata.add_batch(make_batch("x", input_size_bytes=4000, counts=Counts(10, 10, 0, Usage(500, 500)), **ended))
    like_it = make_batch("like-it", input_size_bytes=8000, counts=Counts(total=20))
    assert await find_s(forecaster, like_it) == pytest.approx(20, abs=0.1)


async def test_a_batch_at_work_is_known_by_its_own_lines(
    forecaster: Forecaster, source: KnownSource, metadata: Metadata
) -> None:
    source.set_pace("a", 100)
    columns = {"models": array("I", [0] * 100), "answer_tokens": array("I", [50] * 100)}
    columns["token_estimates"] = columns["answer_tokens"]
    work = WorkLeft(cast("Any", type("Index", (), columns)), {0: Need(0, 5000)})
    work.set_pool(0, POOL)
    batch = make_batch("at-work", 5000)
    await metadata.add_batch(batch)
    source.work_left.append((Turn(batch, 1), work))
    assert work.sum_up({})[POOL] == Need(0, 5000)
    for line in range(80):
        work.note(line, Usage(10, 10))
    # 20 lines are left, of 10 tokens and a little, as a fifth of what was guessed does not yet count for all.
    assert 2 < cast("float", await find_s(forecaster, batch)) < 4
    assert work.find_ratios(POOL, Ratios(completion=0.2)).completion == pytest.approx(0.2)


def test_a_pace_counts_neither_rests_nor_the_time_until_the_first_answer() -> None:
    tally = Tally()
    pace = Pace(tally)
    now_s = 0.0
    for _ in range(3):
        for second in range(40):
            now_s += 1
            if second >= 20:
                tally.add(make_replies(Usage(0, 100), 1.0))
            pace.tick(now_s, 1, is_full=True)
        now_s += 1000
        pace.tick(now_s, 0, is_full=False)
    assert pace.speed.tokens_per_s == pytest.approx(100)


def test_a_pace_that_was_once_full_is_not_that_of_an_idle_engine() -> None:
    tally = Tally()
    pace = Pace(tally)
    for now_s in range(200):
        is_full = now_s < 100
        tally.add(make_replies(Usage(0, 100 if is_full else 1), 1.0))
        pace.tick(float(now_s), 1, is_full=is_full)
    assert pace.speed.tokens_per_s == pytest.approx(100)


async def test_a_store_that_fails_costs_nobody_more_than_a_guess(
    forecaster: Forecaster, source: KnownSource, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        message = "The disk is out."
        raise StoreUnavailable(message)

    source.set_pace("a", 100)
    monkeypatch.setattr("backfill.dispatch.weighing.read_queue", fail)
    assert await find_s(forecaster, make_batch("one", 1000)) == pytest.approx(10, abs=0.1)
