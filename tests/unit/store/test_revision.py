"""The schema: made at once or migration by migration it is the same, and one that is too new is left alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from backfill.errors import StoreUnavailable
from backfill.store import Metadata, revision
from backfill.store.revision import bring_up_to_date

MIGRATIONS = Path(revision.__file__).parent / "migrations"
CONFIG = Config()
CONFIG.set_main_option("script_location", str(MIGRATIONS))
REVISIONS = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / 'backfill.db'}")
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
        columns = {(each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns(table)}
        indexes = {
            (each["name"], tuple(each["column_names"]), bool(each["unique"])) for each in found.get_indexes(table)
        }
        described[table] = (columns, found.get_pk_constraint(table)["constrained_columns"], indexes)
    return described


def read_revision(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def test_the_newest_revision_is_known_from_the_names_of_the_modules(connection: Connection) -> None:
    bring_up_to_date(connection)
    assert read_revision(connection) == REVISIONS[0] == max(REVISIONS)
    # As its own names say: one head, and nothing that Alembic would still do.
    assert ScriptDirectory.from_config(CONFIG).get_heads() == [REVISIONS[0]]


@pytest.mark.parametrize("first", REVISIONS)
def test_a_new_database_is_what_all_migrations_make(connection: Connection, tmp_path: Path, first: str) -> None:
    bring_up_to_date(connection)
    engine = create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    with engine.connect() as old:
        upgrade(old, first)
        bring_up_to_date(old)
        assert read_revision(old) == REVISIONS[0]
        assert describe(old) == describe(connection)
    engine.dispose()


def test_a_database_that_is_up_to_date_is_not_changed(connection: Connection) -> None:
    bring_up_to_date(connection)
    connection.commit()
    before = connection.scalar(text("PRAGMA schema_version"))
    bring_up_to_date(connection)
    assert connection.scalar(text("PRAGMA schema_version")) == before


async def test_a_database_of_a_newer_backfill_is_left_alone(connection: Connection, tmp_path: Path) -> None:
    bring_up_to_date(connection)
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    connection.commit()
    with pytest.raises(StoreUnavailable, match=r"cannot be opened\. .*newer Backfill: its schema is 9999"):
        await Metadata.open(tmp_path / "backfill.db")
    assert read_revision(connection) == "9999"
