"""What only a database that is a server of its own can do: be out, be late, and be told apart from others."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, text

from backfill.batch import File, FileStatus
from backfill.config import load_config
from backfill.errors import InvalidConfig, InvalidInput, NotFound, StoreUnavailable
from backfill.store import Metadata, choose_driver, postgres
from backfill.store.database import Change
from backfill.store.postgres import PostgresDriver
from bench.postgres.server import PostgresServer
from tests.support.rows import PostgresRows

pytestmark = pytest.mark.scale
FILE = File(id="file", owner="o", filename="f.jsonl", purpose="batch", status=FileStatus.SEALED, created_at_ms=1)


@pytest.fixture
def rows(postgres: PostgresServer, request: pytest.FixtureRequest) -> PostgresRows:
    return PostgresRows(postgres, f"server_{abs(hash(request.node.name))}")


@pytest.fixture
async def metadata(rows: PostgresRows) -> AsyncIterator[Metadata]:
    opened = await Metadata.open(rows.make_driver())
    yield opened
    await opened.close()


def end_connections(rows: PostgresRows) -> int:
    """All that are there, but for that which ends them."""
    return len(
        rows.server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'backfill' AND pid <> pg_backend_pid()"
        )
    )


async def test_a_connection_that_was_ended_is_made_anew_and_nobody_notices(
    metadata: Metadata, rows: PostgresRows
) -> None:
    await metadata.add_file(FILE)
    assert await metadata.get_file("file") == FILE
    for _ in range(3):
        assert await asyncio.to_thread(end_connections, rows) > 0
        assert await metadata.get_file("file") == FILE
        assert await asyncio.to_thread(end_connections, rows) > 0
        assert await metadata.get_secret("name") == await metadata.get_secret("name")


async def test_a_transaction_whose_connection_is_ended_is_carried_out_once_more(
    metadata: Metadata, rows: PostgresRows
) -> None:
    tries = []

    def add(connection: Connection) -> None:
        tries.append(1)
        if len(tries) == 1:
            end_connections(rows)
        connection.execute(text("INSERT INTO secrets VALUES ('once', 'x')"))

    await metadata.database.write(add)
    assert len(tries) == 2
    assert rows.run("SELECT name FROM secrets WHERE name = 'once'") == [("once",)]


async def test_a_commit_of_which_nobody_knows_is_not_made_again(
    metadata: Metadata, rows: PostgresRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def add(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("INSERT INTO secrets VALUES ('once', 'x')"))

    def end_them(point: str) -> None:
        if point == "metadata.before_commit":
            end_connections(rows)

    monkeypatch.setattr("backfill.store.database.reach", end_them)
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await metadata.database.write(add)
    assert len(tries) == 1
    monkeypatch.undo()
    # It works again at once.
    assert await metadata.get_secret("once", b"y") == b"y"


async def test_while_the_server_is_down_all_is_refused_at_once_and_works_again_afterwards() -> None:
    with PostgresServer() as server:
        rows = PostgresRows(server, "outage")
        metadata = await Metadata.open(rows.make_driver())
        await metadata.add_file(FILE)
        server.stop()
        refused = await asyncio.gather(
            *(metadata.get_secret(f"name-{number}") for number in range(100)),
            metadata.get_file("file"),
            metadata.database.check(),
            return_exceptions=True,
        )
        assert {type(each) for each in refused} == {StoreUnavailable}
        for each in refused:
            assert isinstance(each, StoreUnavailable)
            assert server.password not in str(each)
            assert each.reason == "the database cannot be reached"
        with pytest.raises(StoreUnavailable, match="cannot be opened") as unopened:
            await Metadata.open(rows.make_driver())
        assert server.password not in str(unopened.value)
        server.start()
        assert await metadata.get_file("file") == FILE
        await metadata.get_secret("name-1")
        await metadata.close()


async def test_who_is_not_let_in_is_told_so_without_the_password(rows: PostgresRows) -> None:
    wrong = rows.url.replace(rows.server.password, "hush-hush")
    with pytest.raises(StoreUnavailable, match="password authentication failed") as refused:
        await Metadata.open(PostgresDriver(wrong))
    assert "hush" not in str(refused.value)
    assert "hush" not in PostgresDriver(wrong).name
    assert PostgresDriver(wrong).find_loss() is None
    assert not PostgresDriver(wrong).has_keys()


async def test_two_who_are_in_each_other_s_way_both_come_through(rows: PostgresRows) -> None:
    """Each holds what the other wants: the server ends one of the two, which is then carried out again."""
    one, other = [await Metadata.open(rows.make_driver()) for _ in range(2)]
    await one.get_secret("a")
    await one.get_secret("b")
    met = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()

    async def meet() -> None:
        await met.wait()

    def change(first: str, second: str, tries: list[int]) -> Change[None]:
        def make(connection: Connection) -> None:
            tries.append(1)
            for number, name in enumerate((first, second)):
                connection.execute(text("UPDATE secrets SET value = 'x' WHERE name = :name"), {"name": name})
                if number == 0 and len(tries) == 1:
                    asyncio.run_coroutine_threadsafe(meet(), loop).result()

        return make

    tries: tuple[list[int], list[int]] = ([], [])
    await asyncio.gather(
        one.database.write(change("a", "b", tries[0]), alone=False),
        other.database.write(change("b", "a", tries[1]), alone=False),
    )
    # Once more for each time that they met again: whoever was ended may be the first one at it.
    assert len(tries[0]) + len(tries[1]) >= 3
    await one.close()
    await other.close()


async def test_what_the_database_cannot_keep_is_the_caller_s_fault(metadata: Metadata) -> None:
    with pytest.raises(InvalidInput, match="too long"):
        await metadata.add_file(msgspec.structs.replace(FILE, id="x" * 65))
    with pytest.raises(InvalidInput, match="NUL"):
        await metadata.get_file("a\0b")
    with pytest.raises(NotFound):
        await metadata.get_file("x" * 99)


async def test_time_is_the_database_s_whatever_this_machine_s_clock_says(
    rows: PostgresRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = time.time_ns() // 1_000_000
    # A minute late, as a machine may be that nobody sets.
    monkeypatch.setattr("time.time_ns", lambda: (now_ms - 60_000) * 1_000_000)
    monkeypatch.setattr("time.time", lambda: now_ms / 1000 - 60)
    metadata = await Metadata.open(rows.make_driver())
    assert abs(metadata.database.now_ms() - now_ms) < 30_000
    await metadata.close()


async def test_the_clock_is_asked_again_from_time_to_time(
    metadata: Metadata, rows: PostgresRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_CLOCK", "SELECT 5000")
    await metadata.get_secret("a")
    assert metadata.database.now_ms() > 1_000_000
    monkeypatch.setattr(postgres, "_CLOCK_AGE_MAX_S", -1.0)
    await metadata.get_secret("a")
    assert 5000 <= metadata.database.now_ms() < 60_000


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {"store.metadata": "postgresql://me:hush@127.0.0.1:1/rows"}
    driver = choose_driver(load_config(environment={}, overrides=settings).store, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(InvalidConfig, match=r"pip install 'backfill\[postgres\]'"):
        driver.open_writer()
