"""A schema that is changed beside others: who may, who waits for whom, and what is made afterwards."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Index, text
from sqlalchemy.exc import DBAPIError

from backfill.batch import File, FileStatus, State
from backfill.errors import SchemaMismatch, StoreBusy
from backfill.store import Leases, Metadata, Wanted, database_opening, find_newest, make_indexes_late, name_presence
from backfill.store import revision as revisions
from backfill.store.schema import files
from bench.postgres.server import PostgresServer
from tests.support.release import make_contracting, make_expanding
from tests.support.rows import PostgresRows, RowsPlace

NOW = find_newest()
NEXT = f"{int(NOW) + 1:04}"


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this code has one step more, which expands."""
    take_migrations(make_expanding(tmp_path / "release", NEXT).versions.parent, monkeypatch)


def take_migrations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "_MIGRATIONS", folder)


def make_file(number: int) -> File:
    return File(
        id=f"file-{number}", owner="o", filename="f", purpose="batch", status=FileStatus.SEALED, created_at_ms=1
    )


def read_revision(rows: RowsPlace) -> str:
    return str(rows.run("SELECT version_num FROM alembic_version")[0][0])


async def take_presence(metadata: Metadata, holder: str, revision: str, lease_ms: int = 60_000) -> None:
    leases = Leases(metadata.database, holder, metadata.database.now_ms, lease_ms)
    assert await leases.take(name_presence(holder, revision))


async def test_a_step_that_expands_is_made_beside_those_who_know_the_one_before(
    rows: RowsPlace, request: pytest.FixtureRequest
) -> None:
    old = await Metadata.open(rows.make_driver())
    await take_presence(old, "old", NOW)
    request.getfixturevalue("newer")
    # A command of the new release leaves it as it is.
    with pytest.raises(SchemaMismatch, match="a command leaves that to a server"):
        await Metadata.open(rows.make_driver(), is_shared=True)
    new = await Metadata.open(rows.make_driver(), holders="new", may_expand=True)
    assert read_revision(rows) == NEXT
    await old.add_file(make_file(1))
    assert await new.get_file("file-1") == make_file(1)
    await old.close()
    await new.close()


async def test_a_step_that_expands_waits_for_who_does_not_say_what_he_knows(
    rows: RowsPlace, request: pytest.FixtureRequest
) -> None:
    old = await Metadata.open(rows.make_driver())
    leases = Leases(old.database, "old", old.database.now_ms, 60_000)
    await leases.take("admission")
    request.getfixturevalue("newer")
    with pytest.raises(SchemaMismatch, match="does not tell which schemas it can work on"):
        await Metadata.open(rows.make_driver(), holders="new")
    assert read_revision(rows) == NOW
    # His own place has the lock, so that he is dead.
    await (await Metadata.open(rows.make_driver(), holders="old")).close()
    assert read_revision(rows) == NEXT
    await old.close()


async def test_a_database_of_before_anything_was_recorded_waits_for_all(
    rows: RowsPlace, request: pytest.FixtureRequest
) -> None:
    await (await Metadata.open(rows.make_driver())).close()
    rows.run("DELETE FROM secrets WHERE name = 'oldest_schema'")
    # It is not recorded by who cannot know that nobody else is there.
    await (await Metadata.open(rows.make_driver(), is_shared=True, may_expand=True)).close()
    request.getfixturevalue("newer")
    with pytest.raises(SchemaMismatch, match="does not tell"):
        await Metadata.open(rows.make_driver(), is_shared=True, may_expand=True)
    await (await Metadata.open(rows.make_driver())).close()
    assert read_revision(rows) == NEXT


async def test_a_step_that_contracts_waits_for_all(
    rows: RowsPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await Metadata.open(rows.make_driver())
    await take_presence(old, "old", NOW)
    take_migrations(make_contracting(tmp_path / "release", NEXT).versions.parent, monkeypatch)
    with pytest.raises(SchemaMismatch, match="older versions cannot work on that one"):
        await Metadata.open(rows.make_driver(), holders="new")
    await Leases(old.database, "old", old.database.now_ms, 60_000).give_back(name_presence("old", NOW))
    await (await Metadata.open(rows.make_driver(), holders="new")).close()
    assert read_revision(rows) == NEXT
    monkeypatch.undo()
    with pytest.raises(SchemaMismatch, match=f"its schema is {NEXT}, for versions that know {NEXT} at least"):
        await Metadata.open(rows.make_driver())
    await old.close()


async def test_one_step_ahead_is_worked_on_and_left_as_it_is(
    rows: RowsPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await Metadata.open(rows.make_driver())).close()
    with monkeypatch.context() as of_newer:
        take_migrations(make_expanding(tmp_path / "release", NEXT).versions.parent, of_newer)
        await (await Metadata.open(rows.make_driver())).close()
    for is_shared in (False, True):
        old = await Metadata.open(rows.make_driver(), is_shared=is_shared)
        await old.add_file(make_file(is_shared))
        await old.close()
    assert read_revision(rows) == NEXT


@pytest.mark.scale
async def test_who_waits_for_a_table_lets_go_again_and_again(
    postgres_rows: PostgresRows, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a change of a table that waits for a back-up, all others would wait too."""
    old = await Metadata.open(postgres_rows.make_driver())
    request.getfixturevalue("newer")
    monkeypatch.setattr(revisions, "_LOCK_PATIENCE", "50ms")
    monkeypatch.setattr(database_opening, "_PAUSE_S", 0)
    engine = postgres_rows.make_driver().open_reader(1)
    refused = []
    migrate = revisions._migrate
    with engine.connect() as back_up:
        back_up.exec_driver_sql("BEGIN; LOCK TABLE slices IN ACCESS SHARE MODE")

        def note(connection: Connection) -> None:
            try:
                migrate(connection)
            except StoreBusy as error:
                refused.append(error)
                if len(refused) == 3:
                    back_up.exec_driver_sql("COMMIT")
                raise

        monkeypatch.setattr(revisions, "_migrate", note)
        new = await Metadata.open(postgres_rows.make_driver())
    assert len(refused) == 3
    assert read_revision(postgres_rows) == NEXT
    engine.dispose()
    await old.close()
    await new.close()


@pytest.mark.scale
async def test_a_back_up_that_never_ends_is_named(
    postgres_rows: PostgresRows, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await Metadata.open(postgres_rows.make_driver())
    request.getfixturevalue("newer")
    monkeypatch.setattr(revisions, "_LOCK_PATIENCE", "10ms")
    monkeypatch.setattr(database_opening, "_PAUSE_S", 0)
    engine = postgres_rows.make_driver().open_reader(1)
    with engine.connect() as back_up:
        back_up.exec_driver_sql("BEGIN; LOCK TABLE slices IN ACCESS SHARE MODE")
        with pytest.raises(StoreBusy, match="somebody holds a table of it"):
            await Metadata.open(postgres_rows.make_driver())
        await old.add_file(make_file(1))
    assert read_revision(postgres_rows) == NOW
    engine.dispose()
    await old.close()


@pytest.fixture
def postgres_rows(postgres: PostgresServer) -> PostgresRows:
    return PostgresRows(postgres, f"test_{uuid.uuid4().hex}")


@pytest.fixture
def index() -> Iterator[Index]:
    """One more that the newest schema has."""
    made = Index("files_by_size", files.c.size_bytes)
    yield made
    files.indexes.discard(made)


@pytest.mark.scale
async def test_an_index_that_was_left_half_made_is_made_anew(
    postgres_rows: PostgresRows, request: pytest.FixtureRequest
) -> None:
    metadata = await Metadata.open(postgres_rows.make_driver())
    for number in range(2):
        await metadata.add_file(make_file(number))
    # As who was killed over it leaves one.
    with pytest.raises(DBAPIError, match="could not create unique index"):
        postgres_rows.run("CREATE UNIQUE INDEX CONCURRENTLY files_by_size ON files (size_bytes)")
    request.getfixturevalue("index")
    driver = postgres_rows.make_driver()
    engine = driver.open_reader(1)
    with engine.connect() as other:
        # Another process is at it.
        other.execute(text("SELECT pg_advisory_lock(hashtext('backfill indexes'), hashtext(current_schema()))"))
        assert make_indexes_late(driver) is None
    engine.dispose()
    assert make_indexes_late(driver) == ["files_by_size"]
    assert make_indexes_late(driver) == []
    valid = "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'files_by_size'::regclass"
    assert postgres_rows.run(valid) == [(True, False)]
    await metadata.close()


@pytest.mark.scale
async def test_statements_that_are_prepared_bear_a_new_column(postgres_rows: PostgresRows) -> None:
    """Those of the next turn too, which PostgreSQL would otherwise refuse: their plan has another result."""
    metadata = await Metadata.open(postgres_rows.make_driver())
    wanted = Wanted(State.IN_PROGRESS, 5, "", 1, 1, 1)
    for _ in range(12):
        await metadata.find_next(wanted)
    prepared = await metadata.database.read(text("SELECT statement FROM pg_prepared_statements"))
    assert any("in_round" in row.statement for row in prepared)
    postgres_rows.run("ALTER TABLE batches ADD COLUMN more TEXT")
    for _ in range(12):
        assert await metadata.find_next(wanted) == ([], [])
    await metadata.close()
