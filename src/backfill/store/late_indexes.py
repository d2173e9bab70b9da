"""Indexes that a migration beside others leaves out, since making one keeps writers from its table on PostgreSQL.

Rows are right without them, only slower to find. SQLite makes them in the transaction of the migration; PostgreSQL
makes them while all go on (CREATE INDEX CONCURRENTLY), by one process at a time, which may die over it: what it leaves
half-made is not valid, and made anew.
"""

from sqlalchemy import Connection, Index, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, DropIndex

from backfill.store.driver import Driver
from backfill.store.schema import metadata

__all__ = ["make_indexes_at_once", "make_indexes_late"]

_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    "postgresql": (
        "SELECT relname FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid "
        "WHERE indisvalid AND relnamespace = current_schema()::regnamespace"
    ),
}
# Of the schema, so that installations in one database are apart. Nobody waits for it: an index waits for all who do.
_TAKE = "SELECT pg_try_advisory_lock(hashtext('backfill indexes'), hashtext(current_schema()))"
_GIVE_BACK = "SELECT pg_advisory_unlock(hashtext('backfill indexes'), hashtext(current_schema()))"


def make_indexes_at_once(connection: Connection) -> None:
    """On SQLite make those that are not there, in the transaction that is under way; elsewhere nothing."""
    if connection.dialect.name == "sqlite":
        for index in _list_missing(connection):
            connection.execute(CreateIndex(index))


def make_indexes_late(driver: Driver) -> list[str] | None:
    """Make those that the newest schema has and the database lacks; their names. None: it is to be tried again.

    Blocks, for minutes on large tables. For who knows that the database has the newest schema.
    """
    engine = driver.open_reader(1)
    try:
        with engine.connect() as connection:
            return _make_late(connection) if connection.dialect.name == "postgresql" else []
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _make_late(connection: Connection) -> list[str] | None:
    if not _list_missing(connection):
        return []
    if not connection.scalar(text(_TAKE)):
        return None
    try:
        # Another process may have made them meanwhile.
        missing = _list_missing(connection)
        for index in missing:
            connection.exec_driver_sql(_say_concurrently(connection, DropIndex(index, if_exists=True)))
            connection.exec_driver_sql(_say_concurrently(connection, CreateIndex(index)))
        return [str(index.name) for index in missing]
    finally:
        connection.execute(text(_GIVE_BACK))


def _list_missing(connection: Connection) -> list[Index]:
    there = {row[0] for row in connection.execute(text(_NAMES[connection.dialect.name]))}
    return [index for table in metadata.sorted_tables for index in table.indexes if index.name not in there]


def _say_concurrently(connection: Connection, statement: CreateIndex | DropIndex) -> str:
    said = str(statement.compile(dialect=connection.dialect))
    return said.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
