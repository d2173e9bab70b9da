"""Transactions that carry the changes of several callers: each is whole and on disk, and none harms another."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, event, text

from backfill.errors import StoreUnavailable
from backfill.store.database import Database
from tests.support.rows import RowsPlace


@pytest.fixture
async def database(rows: RowsPlace) -> AsyncIterator[Database]:
    opened = Database(rows.make_driver())
    await opened.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
    yield opened
    await opened.close()


def count_commits(database: Database) -> list[Connection]:
    commits: list[Connection] = []
    event.listen(database._writer, "commit", commits.append)
    return commits


async def add(database: Database, number: int) -> int:
    def insert(connection: Connection) -> int:
        return connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": number}).rowcount

    return await database.write(insert)


async def read_numbers(database: Database) -> list[int]:
    return [row.n for row in await database.read(text("SELECT n FROM t ORDER BY n"))]


async def test_changes_that_come_together_share_transactions(database: Database) -> None:
    commits = count_commits(database)
    assert await asyncio.gather(*(add(database, number) for number in range(100))) == [1] * 100
    assert len(commits) < 10
    assert await read_numbers(database) == list(range(100))


async def test_a_change_that_fails_takes_no_other_with_it(database: Database) -> None:
    numbers = [1, 2, 1, 3]
    outcomes = await asyncio.gather(*(add(database, number) for number in numbers), return_exceptions=True)
    assert [isinstance(outcome, StoreUnavailable) for outcome in outcomes] == [False, False, True, False]
    assert await read_numbers(database) == [1, 2, 3]


async def test_an_error_of_the_change_itself_reaches_its_caller(database: Database) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (7)"))
        raise ValueError

    outcomes = await asyncio.gather(add(database, 1), database.write(fail), return_exceptions=True)
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], ValueError)
    assert await read_numbers(database) == [1]


async def test_a_caller_that_is_cancelled_holds_up_nobody(database: Database) -> None:
    first = asyncio.create_task(add(database, 1))
    second = asyncio.create_task(add(database, 2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await add(database, 3) == 1


async def test_after_a_failure_the_next_change_is_made(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match=r"cannot be written: .*nowhere"):
        await database.write(lambda connection: connection.execute(text("DELETE FROM nowhere")))
    assert await add(database, 1) == 1
