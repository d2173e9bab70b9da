"""The schema: made at once or migration by migration it is the same, and one that is too new is left alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, inspect, text

from backfill.api_key import ApiKey, Scope
from backfill.batch import Batch, Counts, File, FileStatus, Price, Reservation, State, Usage, UsageRow
from backfill.config import LimitsConfig
from backfill.errors import StoreUnavailable
from backfill.store import ApiKeys, BatchFilter, BatchSearch, Metadata, Reservations, UsageRecords, Wanted, revision
from backfill.store.revision import bring_up_to_date
from backfill.store.rows import to_values
from backfill.store.schema import metadata, secrets
from backfill.turns import Turns
from tests.support.rows import RowsPlace

MIGRATIONS = Path(revision.__file__).parent / "migrations"
CONFIG = Config()
CONFIG.set_main_option("script_location", str(MIGRATIONS))
REVISIONS = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()]


@pytest.fixture
def connection(rows: RowsPlace) -> Iterator[Connection]:
    """Each statement by itself."""
    engine = rows.make_driver().open_reader(1)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def upgrade(connection: Connection, target: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def describe(connection: Connection) -> dict[str, Any]:
    """Tables, columns and indexes; the order of columns depends on when each was added, and means nothing."""
    found = inspect(connection)
    described = {}
    for table in found.get_table_names():
        columns = {
            (each["name"], str(each["type"]), each["nullable"], each["default"]) for each in found.get_columns(table)
        }
        indexes = {
            (each["name"], tuple(each["column_names"]), bool(each["unique"])) for each in found.get_indexes(table)
        }
        described[table] = (columns, found.get_pk_constraint(table)["constrained_columns"], indexes)
    return described


def read_revision(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def drop_all(connection: Connection) -> None:
    for table in inspect(connection).get_table_names():
        connection.execute(text(f"DROP TABLE {table}"))


def test_the_newest_revision_is_known_from_the_names_of_the_modules(connection: Connection) -> None:
    bring_up_to_date(connection)
    assert read_revision(connection) == REVISIONS[0] == max(REVISIONS)
    # As its own names say: one head, and nothing that Alembic would still do.
    assert ScriptDirectory.from_config(CONFIG).get_heads() == [REVISIONS[0]]


@pytest.mark.parametrize("first", REVISIONS)
def test_a_new_database_is_what_all_migrations_make(connection: Connection, first: str) -> None:
    bring_up_to_date(connection)
    new = describe(connection)
    drop_all(connection)
    upgrade(connection, first)
    bring_up_to_date(connection)
    assert read_revision(connection) == REVISIONS[0]
    assert describe(connection) == new


def test_a_database_that_is_up_to_date_is_not_changed(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_up_to_date(connection)
    before = describe(connection)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(revision, "_migrate", fail)
    monkeypatch.setattr(metadata, "create_all", fail)
    bring_up_to_date(connection)
    assert describe(connection) == before


async def test_a_database_of_a_newer_backfill_is_left_alone(connection: Connection, rows: RowsPlace) -> None:
    bring_up_to_date(connection)
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    connection.execute(secrets.update().values(value=b"9998"))
    for is_shared in (False, True):
        with pytest.raises(StoreUnavailable, match=r"cannot be opened\. .*its schema is 9999"):
            await Metadata.open(rows.make_driver(), is_shared=is_shared)
    assert read_revision(connection) == "9999"


async def test_processes_that_start_at_once_make_the_schema_once(rows: RowsPlace) -> None:
    opened = await asyncio.gather(*(Metadata.open(rows.make_driver()) for _ in range(4)))
    await opened[0].add_file(FILE)
    for each in opened:
        assert await each.get_file(FILE.id) == FILE
        await each.close()


FILE = File(
    id="file-1",
    owner="ada",
    filename="in.jsonl",
    purpose="batch-api",
    status=FileStatus.SEALED,
    created_at_ms=1000,
    size_bytes=9,
    line_count=3,
    survey=b'{"lines": 3}',
)
WAITING = Batch(
    id="waiting",
    owner="ada",
    endpoint="/v1/chat/completions",
    input_file_id=FILE.id,
    input_size_bytes=9,
    state=State.IN_PROGRESS,
    created_at_ms=1000,
    deadline_at_ms=9000,
    metadata={"project": "old"},
    counts=Counts(3),
)
ENDED = Batch(
    id="ended",
    owner="ada",
    endpoint="/v1/chat/completions",
    input_file_id=FILE.id,
    input_size_bytes=9,
    state=State.COMPLETED,
    created_at_ms=1000,
    deadline_at_ms=9000,
    model_id="m",
    counts=Counts(3, 3, 0, Usage(1, 2, 0)),
    ended_at_ms=3_600_000,
)
NEWER = {
    "prices": {"m": Price()},
    "reserved": {"m": Reservation(3, 4, 5)},
    "usage": (UsageRow("m", 1, 3, 0, Usage(1, 2)),),
}
KEY = ApiKey(
    id="key_1", owner="ada", name="ada", prefix="sk-old", digest="digest", scopes=(Scope.BATCH,), created_at_ms=1000
)


def write_as_then(connection: Connection, name: str, values: dict[str, Any]) -> None:
    """A row as the code of that time wrote it: with the columns that there were."""
    table = Table(name, MetaData(), autoload_with=connection)
    known = {column.name for column in table.columns}
    connection.execute(table.insert(), {column: value for column, value in values.items() if column in known})


@pytest.mark.parametrize("written_by", ["0001", "0006", "0008"])
async def test_rows_of_an_earlier_schema_are_read_and_worked_on(
    connection: Connection, rows: RowsPlace, written_by: str, tmp_path: Path
) -> None:

    upgrade(connection, written_by)
    write_as_then(connection, "files", msgspec.structs.asdict(FILE))
    for batch in (WAITING, ENDED):
        newer = {} if written_by == "0001" else {name: msgspec.to_builtins(each) for name, each in NEWER.items()}
        write_as_then(connection, "batches", to_values(batch) | {"holder": None, "lease_until_ms": 0} | newer)
    if written_by != "0001":
        write_as_then(connection, "api_keys", msgspec.to_builtins(msgspec.structs.asdict(KEY)))
    opened = await Metadata.open(rows.make_driver())
    await assert_all_is_there(opened, NEWER if written_by != "0001" else {})
    stored = ApiKeys.open(opened.database, tmp_path)
    assert await stored.list() == ([KEY] if written_by != "0001" else [])
    stored.close()
    await opened.close()


async def test_a_batch_under_way_from_before_there_were_slices_stays_whole(
    connection: Connection, rows: RowsPlace
) -> None:
    upgrade(connection, "0008")
    large = msgspec.structs.replace(WAITING, counts=Counts(100_000), epoch=3)
    write_as_then(connection, "batches", to_values(large) | {"holder": "dead", "lease_until_ms": 4000})
    opened = await Metadata.open(rows.make_driver())
    turns = Turns(opened, LimitsConfig(), lambda: 5000, count_slices=lambda lines: lines // 2000)
    (turn,) = await turns.take(9)
    assert (turn.batch.id, turn.slice_number, turn.epoch, turn.is_takeover) == ("waiting", 0, 4, True)
    await turns.give_back(turn, drained=True)
    assert (await opened.get_batch("waiting")).state is State.FINALIZING
    await opened.close()


async def assert_all_is_there(opened: Metadata, newer: dict[str, Any]) -> None:

    waiting, ended = (msgspec.structs.replace(batch, **newer) for batch in (WAITING, ENDED))
    assert await opened.get_file(FILE.id, "ada") == FILE
    assert {batch.id: batch for batch in await opened.list_batches("ada", limit=9)} == {
        "waiting": waiting,
        "ended": ended,
    }
    assert await opened.find_next(Wanted(State.IN_PROGRESS, 5, "", 1, 1, 1)) == ([waiting], [waiting])
    found = await BatchSearch(opened.database).find(BatchFilter(text="old"), limit=9)
    assert [batch.id for batch in found] == ["waiting"]
    claims = await opened.database.look(Reservations.read_claims)
    assert [(claim.batch_id, claim.reserved) for claim in claims] == [("waiting", waiting.reserved)]
    used = [batch async for some in UsageRecords(opened.database).read_ended(0, 1 << 60, "ada") for batch in some]
    assert [(batch.batch_id, sum(row.answered for row in batch.rows)) for batch in used] == [("ended", 3)]
    values = {"state": State.PAUSED, "name": "newly named", "own_webhook_tries": 1}
    assert await opened.change_batch("waiting", state=State.IN_PROGRESS, epoch=0, values=values)
    assert (await opened.get_batch("waiting")).state is State.PAUSED
