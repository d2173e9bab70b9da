"""A database for rows, of each kind that there is a driver for: what a test of the store is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from backfill.store import DATABASE, Driver, SqliteDriver
from backfill.store.postgres import PostgresDriver
from bench.postgres.server import PostgresServer

__all__ = ["PostgresRows", "RowsPlace", "SqliteRows"]


class RowsPlace:
    """A database of a test's own, empty. A third kind needs a class like the two below."""

    name: str
    settings: dict[str, Any]
    """What `load_config` is given to use it, beside its data directory."""

    def make_driver(self) -> Driver:
        """A new one each time, as another process would have it."""
        raise NotImplementedError

    def explain(self, query: Any, values: Mapping[str, Any]) -> list[str]:
        """The steps in which the database would carry out a query."""
        raise NotImplementedError

    def run(self, statement: str, **values: object) -> list[Any]:
        """Carry out a statement beside all drivers, with these values for its parameters; what it gives."""
        engine = self.make_driver().open_reader(1)
        try:
            with engine.connect() as connection:
                result = connection.execute(text(statement), values)
                return list(result) if result.returns_rows else []
        finally:
            engine.dispose()


class SqliteRows(RowsPlace):
    """SQLite in a folder."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATABASE
        self.settings = {}

    def make_driver(self) -> Driver:
        return SqliteDriver(self.path)

    def explain(self, query: Any, values: Mapping[str, Any]) -> list[str]:
        return [str(row[3]) for row in _explain(self.make_driver().open_reader(1), "EXPLAIN QUERY PLAN", query, values)]


class PostgresRows(RowsPlace):
    """A schema of a server."""

    name = "postgresql"

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.server = server
        self.url = server.make_schema(schema)
        self.settings = {"store.metadata": self.url}

    def make_driver(self) -> Driver:
        return PostgresDriver(self.url)

    def explain(self, query: Any, values: Mapping[str, Any]) -> list[str]:
        # Its plans depend on what it knows of the rows, which it finds out by itself within a minute.
        self.run("ANALYZE")
        return [str(row[0]) for row in _explain(self.make_driver().open_reader(1), "EXPLAIN", query, values)]


def _explain(engine: Engine, word: str, query: Any, values: Mapping[str, Any]) -> list[Any]:
    def ask_for_plan(
        connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        return f"{word} {statement}", parameters

    event.listen(engine, "before_cursor_execute", ask_for_plan, retval=True)
    try:
        with engine.connect() as connection:
            return list(connection.execute(query, values).cursor.fetchall())
    finally:
        engine.dispose()
