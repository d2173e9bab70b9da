"""Duties: one process at a time has each, another takes over, and at once from one that ends properly."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from backfill.errors import StoreUnavailable
from backfill.store import Leases, Metadata
from backfill.turns import Duties
from tests.support.rows import RowsPlace
from tests.support.virtual_clock import run_virtual

LEASE_S = 3.0
ALL = ("admission", "webhooks", "retention")


def clock_ms() -> int:
    """It goes as the event loop's does, which jumps."""
    return 1_000_000 + round(1000 * asyncio.get_running_loop().time())


class Process(Leases):
    """What one process does with leases. One that is killed renews nothing; `fails`: its database is away."""

    fails = False
    on_taken: Callable[[], object] | None = None
    before_take: Callable[[], Awaitable[object]] | None = None

    async def take(self, name: str) -> bool:
        if self.fails:
            raise StoreUnavailable("The database is away.")
        if self.before_take is not None:
            await self.before_take()
        is_taken = await super().take(name)
        if self.on_taken is not None:
            self.on_taken()
        return is_taken


class House:
    """Processes on one database."""

    def __init__(self, metadata: Metadata, group: asyncio.TaskGroup) -> None:
        self._metadata = metadata
        self._group = group
        self._running: list[asyncio.Task[None]] = []

    def begin(self, holder: str) -> tuple[Duties, Process, asyncio.Task[None]]:
        leases = Process(self._metadata.database, holder, clock_ms, round(1000 * LEASE_S))
        duties = Duties(leases)
        task = self._group.create_task(duties.run())
        self._running.append(task)
        return duties, leases, task

    def end(self) -> None:
        for task in self._running:
            task.cancel()


@asynccontextmanager
async def open_house(rows: RowsPlace) -> AsyncIterator[House]:
    metadata = await Metadata.open(rows.make_driver())
    try:
        async with asyncio.TaskGroup() as group:
            house = House(metadata, group)
            try:
                yield house
            finally:
                house.end()
    finally:
        await metadata.close()


def run(rows: RowsPlace, check: Callable[[House], Awaitable[None]]) -> None:
    async def work() -> None:
        async with open_house(rows) as house:
            await check(house)

    run_virtual(work())


def test_one_process_at_a_time_has_a_duty_for_as_long_as_it_lives(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        (first, *_), (second, *_) = house.begin("first"), house.begin("second")
        for name in ALL:
            assert await first.has(name)
        for _ in range(10):
            await asyncio.sleep(LEASE_S / 2)
            for name in ALL:
                assert not await second.has(name)
                assert await first.has(name)

    run(rows, check)


def test_each_duty_may_be_anothers(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        (first, *_), (second, *_) = house.begin("first"), house.begin("second")
        assert await first.has("admission")
        assert await second.has("webhooks")
        await asyncio.sleep(4 * LEASE_S)
        assert [await first.has("admission"), await first.has("webhooks")] == [True, False]
        assert [await second.has("admission"), await second.has("webhooks")] == [False, True]

    run(rows, check)


def test_what_a_killed_process_had_is_anothers_after_the_lease_and_not_before(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        first, _, killed = house.begin("first")
        second, *_ = house.begin("second")
        assert await first.has("admission")
        killed.cancel()
        await asyncio.sleep(LEASE_S - 0.1)
        assert not await second.has("admission")
        await asyncio.sleep(0.2)
        assert await second.has("admission")
        # And the first one would know, had it only stood still.
        assert not await first.has("admission")

    run(rows, check)


def test_what_a_process_had_that_ends_properly_is_free_at_once(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        first, _, ending = house.begin("first")
        second, *_ = house.begin("second")
        for name in ALL:
            assert await first.has(name)
        first.stop()
        await ending
        for name in ALL:
            assert not await first.has(name)
            assert await second.has(name)

    run(rows, check)


def test_what_is_taken_while_a_process_ends_is_free_at_once(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        first, leases, ending = house.begin("first")
        second, *_ = house.begin("second")
        # It is stopped after the row was written, and before it knows of it.
        leases.on_taken = first.stop
        assert not await first.has("admission")
        await ending
        assert await second.has("admission")

    run(rows, check)


def test_a_process_that_cannot_renew_gives_up_in_time_and_begins_again(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        first, leases, _ = house.begin("first")
        second, *_ = house.begin("second")
        assert await first.has("admission")
        leases.fails = True
        await asyncio.sleep(LEASE_S / 2)
        assert await first.has("admission")
        await asyncio.sleep(LEASE_S)
        with suppress(StoreUnavailable):
            assert not await first.has("admission")
        assert await second.has("admission")
        leases.fails = False
        assert not await first.has("admission")
        await second.drop("admission")
        assert await first.has("admission")

    run(rows, check)


def test_a_duty_for_a_while_is_free_when_its_last_user_is_done(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        (first, *_), (second, *_) = house.begin("first"), house.begin("second")
        async with first.trying("file 1") as is_ours:
            assert is_ours
            async with first.trying("file 1") as is_ours_too, second.trying("file 1") as is_theirs:
                assert (is_ours_too, is_theirs) == (True, False)
            await asyncio.sleep(2 * LEASE_S)
            async with second.trying("file 1") as is_theirs:
                assert not is_theirs
        async with second.trying("file 1") as is_theirs:
            assert is_theirs

    run(rows, check)


def test_a_duty_is_free_although_it_was_being_renewed_when_its_last_user_was_done(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        first, leases, _ = house.begin("first")
        second, _, _ = house.begin("second")
        is_renewing, may_renew = asyncio.Event(), asyncio.Event()

        async def hold_up() -> None:
            is_renewing.set()
            await may_renew.wait()

        async with first.trying("one file") as is_ours:
            assert is_ours
            leases.before_take = hold_up
            await is_renewing.wait()
        may_renew.set()
        await asyncio.sleep(LEASE_S / 10)
        assert await second.has("one file")
        # One that is needed again meanwhile stays.
        is_renewing.clear()
        may_renew.clear()
        leases.before_take = None
        async with first.trying("another file"):
            leases.before_take = hold_up
            await is_renewing.wait()
        leases.before_take = None
        async with first.trying("another file") as is_ours:
            may_renew.set()
            await asyncio.sleep(LEASE_S / 10)
            assert is_ours
            assert not await second.has("another file")
        assert await second.has("another file")

    run(rows, check)


def test_who_waits_for_a_duty_gets_it_when_it_is_free(rows: RowsPlace) -> None:
    async def check(house: House) -> None:
        (first, *_), (second, *_) = house.begin("first"), house.begin("second")
        done: list[str] = []

        async def wait() -> None:
            async with second.alone_at("file 1"):
                done.append("second")

        async with first.alone_at("file 1"), asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await asyncio.sleep(2 * LEASE_S)
            done.append("first")
            await first.drop("file 1")
            await waiting
        assert done == ["first", "second"]

    run(rows, check)


async def test_a_process_that_is_alone_has_all_of_them_until_it_ends() -> None:
    duties = Duties()
    assert duties.is_alone
    for name in ALL:
        assert await duties.has(name)
    await duties.run()
