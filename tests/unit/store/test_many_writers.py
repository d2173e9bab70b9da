"""Several processes on one database: no update is lost, a request makes one batch, and no limit is passed."""

import asyncio
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from backfill.accounts import Quota, QuotaSources
from backfill.batch import Batch, Counts, File, FileStatus, Reservation, Standing, State
from backfill.config import LimitsConfig
from backfill.errors import LimitReached
from backfill.store import Aging, Metadata, Slices
from backfill.store.postgres import PostgresDriver
from backfill.turns import Turns
from tests.support.rows import PostgresRows, RowsPlace

_Result = TypeVar("_Result")
_PROCESSES = 4
_THREADS = 2
FILE = File(id="file", owner="o", filename="f.jsonl", purpose="batch", status=FileStatus.SEALED, created_at_ms=1)

pytestmark = pytest.mark.scale


@pytest.fixture
def url(postgres: Any, request: pytest.FixtureRequest) -> str:
    rows = PostgresRows(postgres, f"many_{abs(hash(request.node.name))}")

    async def prepare() -> None:
        metadata = await Metadata.open(rows.make_driver())
        await metadata.add_file(FILE)
        await metadata.close()

    asyncio.run(prepare())
    return rows.url


def make_batch(name: str, **facts: Any) -> Batch:
    members: dict[str, Any] = {"state": State.IN_PROGRESS, "owner": "o", "input_file_id": "file"} | facts
    return Batch(
        id=name,
        endpoint="/v1/chat/completions",
        input_size_bytes=3,
        created_at_ms=1,
        deadline_at_ms=1 << 41,
        **members,
    )


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as processes:
        yield processes


def run_everywhere(processes: ProcessPoolExecutor, work: Callable[[str, int], _Result], url: str) -> list[_Result]:
    """What `work` comes to in several processes, in several threads of each, all at once."""
    groups = processes.map(run_in_threads, [work] * _PROCESSES, [url] * _PROCESSES, range(_PROCESSES))
    return [result for group in groups for result in group]


def run_in_threads(work: Callable[[str, int], _Result], url: str, process: int) -> list[_Result]:
    together = threading.Barrier(_THREADS)

    def begin(number: int) -> _Result:
        together.wait()
        return work(url, number)

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(begin, range(process * _THREADS, (process + 1) * _THREADS)))


def with_metadata(url: str, work: Callable[[Metadata], Coroutine[Any, Any, _Result]]) -> _Result:
    async def open_and_work() -> _Result:
        metadata = await Metadata.open(PostgresDriver(url))
        try:
            return await work(metadata)
        finally:
            await metadata.close()

    return asyncio.run(open_and_work())


def add_up(url: str, _number: int) -> int:
    """Read, and write what was read and one more, in a transaction as SQLite has them."""

    async def work(metadata: Metadata) -> int:
        for _ in range(25):
            await metadata.database.write(increment)
        return 25

    return with_metadata(url, work)


def increment(connection: Any) -> None:

    found = connection.scalar(text("SELECT epoch FROM batches WHERE id = 'counter'"))
    connection.execute(text("UPDATE batches SET epoch = :next WHERE id = 'counter'"), {"next": found + 1})


def test_no_update_is_lost(processes: ProcessPoolExecutor, url: str) -> None:
    with_metadata(url, lambda metadata: metadata.add_batch(make_batch("counter")))
    added = run_everywhere(processes, add_up, url)
    counter = with_metadata(url, lambda metadata: metadata.get_batch("counter"))
    assert counter.epoch == sum(added) == 25 * _PROCESSES * _THREADS


def change_epochs(url: str, _number: int) -> int:
    async def work(metadata: Metadata) -> int:
        won = 0
        for epoch in range(40):
            won += await metadata.change_batch("counter", epoch=epoch, values={"epoch": epoch + 1})
        return won

    return with_metadata(url, work)


def test_of_many_who_expect_the_same_epoch_one_changes_it(processes: ProcessPoolExecutor, url: str) -> None:
    with_metadata(url, lambda metadata: metadata.add_batch(make_batch("counter")))
    won = run_everywhere(processes, change_epochs, url)
    counter = with_metadata(url, lambda metadata: metadata.get_batch("counter"))
    assert counter.epoch == sum(won)


def create_the_same(url: str, number: int) -> list[str]:
    async def work(metadata: Metadata) -> list[str]:
        made = []
        for request in range(15):
            batch = make_batch(f"{number}-{request}", idempotency_key=f"key-{request}")
            made.append((await metadata.add_batch(batch)).id)
            like = make_batch(f"{number}-like-{request}", request_digest=f"digest-{request}", owner="p")
            made.append((await metadata.add_batch(like, repeats_since_ms=0)).id)
        return made

    return with_metadata(url, work)


def test_a_request_that_is_sent_to_all_makes_one_batch(processes: ProcessPoolExecutor, url: str) -> None:
    made = run_everywhere(processes, create_the_same, url)
    assert len({tuple(each) for each in made}) == 1
    assert len(with_metadata(url, lambda metadata: metadata.list_batch_ids())) == 30


def fill_up(url: str, number: int) -> int:
    async def work(metadata: Metadata) -> int:
        async def measure(_batch: Batch) -> Standing:
            return Standing(Counts())

        async def find_key_limit(_key_id: str) -> int | None:
            return None

        quota = Quota(metadata, 1000, QuotaSources(measure, find_key_limit, str))
        await quota.begin()
        let_in: list[str] = []
        for each in range(20):
            reserved = {"m": Reservation(1, 20, 10)}
            try:
                batch = make_batch(f"{number}-{each}", state=State.VALIDATING, reserved=reserved)
                let_in.append((await quota.add_batch(batch)).id)
            except LimitReached:
                # What another process has ended makes room here too.
                if let_in:
                    await metadata.change_batch(let_in.pop(), values={"state": State.CANCELLED})
            assert (await quota.measure())["m"] <= 1000
        return len(let_in)

    return with_metadata(url, work)


def test_the_quota_is_not_overrun(processes: ProcessPoolExecutor, url: str) -> None:
    let_in = run_everywhere(processes, fill_up, url)
    waiting = with_metadata(url, lambda metadata: metadata.find_batches([State.VALIDATING]))
    # 33 of 30 tokens fit.
    assert len(waiting) <= 33
    assert sum(let_in) == len(waiting) > 0


def take_turns(url: str, _number: int) -> list[str]:
    async def work(metadata: Metadata) -> list[str]:
        turns = Turns(metadata, LimitsConfig(), metadata.database.now_ms)
        mine: list[str] = []
        idle = 0
        while idle < 3:
            taken = await turns.take(3)
            mine += [turn.batch.id for turn in taken]
            idle = 0 if taken else idle + 1
            assert all(turn.epoch == 1 for turn in taken)
        return mine

    return with_metadata(url, work)


def test_a_batch_is_leased_to_one_worker_and_none_is_left(processes: ProcessPoolExecutor, url: str) -> None:
    async def fill(metadata: Metadata) -> None:
        batches = (make_batch(f"batch-{number}", owner=f"owner-{number % 5}") for number in range(200))
        await asyncio.gather(*map(metadata.add_batch, batches))

    with_metadata(url, fill)
    taken = Counter(batch_id for mine in run_everywhere(processes, take_turns, url) for batch_id in mine)
    assert len(taken) == 200
    assert set(taken.values()) == {1}


def share_slices(url: str, _number: int) -> list[int]:
    """The slices of one batch that this holder had, who begins when all have one."""

    async def work(metadata: Metadata) -> list[int]:
        turns = Turns(metadata, LimitsConfig(), metadata.database.now_ms)
        held = await turns.take(1)
        while not held:
            held = await turns.take(1)
        holders = text("SELECT count(DISTINCT holder) AS found FROM slices")
        while (await metadata.database.read(holders))[0].found < _PROCESSES * _THREADS:
            pass
        mine: list[int] = []
        batch = held[0].batch
        while held:
            assert all((turn.epoch, turn.is_takeover) == (1, False) for turn in held)
            mine += [turn.slice_number for turn in held]
            further = await turns.take_slices(batch, 2, [turn.slice_number for turn in held])
            await asyncio.gather(*(turns.give_back(turn, drained=True) for turn in held))
            held = further
        return mine

    return with_metadata(url, work)


def test_all_share_the_slices_of_one_batch_and_the_last_one_ends_it(processes: ProcessPoolExecutor, url: str) -> None:
    count = 100

    async def fill(metadata: Metadata) -> None:
        await metadata.add_batch(make_batch("cut"))
        await metadata.change_batch("cut", values={"slices": count}, new_slices=count)

    with_metadata(url, fill)
    shares = run_everywhere(processes, share_slices, url)
    assert sorted(number for mine in shares for number in mine) == list(range(1, count + 1))
    assert all(shares)
    assert with_metadata(url, lambda metadata: metadata.get_batch("cut")).state is State.FINALIZING
    drained = with_metadata(url, lambda metadata: Slices(metadata).list_drained("cut"))
    assert sorted(drained) == list(range(1, count + 1))
    assert with_metadata(url, read_places) == list(range(1, count + 1))


async def read_places(metadata: Metadata) -> list[int]:
    return [row.drained_as for row in await metadata.database.read(text("SELECT drained_as FROM slices ORDER BY 1"))]


async def test_a_file_goes_or_has_a_batch_and_never_both(rows: RowsPlace) -> None:
    """Who deletes and who creates look at each other's table: one of the two must see the other."""
    one, other = [await Metadata.open(rows.make_driver()) for _ in range(2)]
    for number in range(40):
        file = File(
            id=f"file-{number}", owner="o", filename="f", purpose="batch", status=FileStatus.SEALED, created_at_ms=1
        )
        await one.add_file(file)
        batch = make_batch(f"batch-{number}", input_file_id=file.id)

        def has_file(connection: Any, file_id: str = file.id) -> bool:
            return Aging.has_file(connection, file_id)

        added, removed = await asyncio.gather(
            one.add_batch_if(has_file, batch), Aging(other.database).delete_unread_file(file.id)
        )
        assert (added is not None) != removed
    await one.close()
    await other.close()
