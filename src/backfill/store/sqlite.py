"""SQLite: one file in the data directory, which one server at a time works on.

SQLite through SQLAlchemy loses updates unless the transaction begins with BEGIN IMMEDIATE; the driver is therefore
kept from opening transactions of its own (`isolation_level=None`).
"""

import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from backfill.store.permissions import create_private

__all__ = ["DATABASE", "SqliteDriver"]

DATABASE = "backfill.db"
"""Its name in a data directory."""
_MAGIC = b"SQLite format 3\0"
_BUSY_S = 10
_BUSY_PAUSE_S = 0.01


class SqliteDriver:
    """See `Driver`."""

    many_writers = False

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """See `Driver`."""
        return str(self._path)

    def prepare(self) -> None:
        """See `Driver`."""
        # SQLite gives its other files the mode of this one.
        create_private(self._path)

    def open_writer(self) -> Engine:
        """See `Driver`."""
        return _open(self._path, pool_size=1, max_overflow=0)

    def open_reader(self, connections: int) -> Engine:
        """See `Driver`."""
        return _open(self._path, pool_size=connections)

    def begin(self, connection: Connection, *, alone: bool) -> None:  # noqa: ARG002 - all of them are
        """See `Driver`."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def now_ms(self) -> int:
        """See `Driver`; all processes are on this machine."""
        return time.time_ns() // 1_000_000

    def call_out(self, connection: Connection, words: str) -> None:
        """Nobody: see `Driver.listen`."""

    async def listen(self) -> AsyncGenerator[str, None]:
        """See `Driver`."""
        nobody: tuple[str, ...] = ()
        for words in nobody:
            yield words

    def may_repeat(self, error: SQLAlchemyError) -> bool:  # noqa: ARG002
        """Never: what SQLite cannot do now, it could not do at once."""
        return False

    def is_out(self, error: SQLAlchemyError) -> bool:  # noqa: ARG002
        """Never: a commit that fails is rolled back."""
        return False

    def is_of_values(self, error: SQLAlchemyError) -> bool:  # noqa: ARG002
        """Never: SQLite keeps any text."""
        return False

    def explain(self, error: SQLAlchemyError) -> str:
        """See `Driver`."""
        return str(getattr(error, "orig", None) or type(error).__name__)

    def find_loss(self) -> str | None:
        """See `Driver`."""
        try:
            with self._path.open("rb") as file:
                beginning = file.read(len(_MAGIC))
        except FileNotFoundError:
            return "gone"
        except OSError:
            return None  # whoever opens it says what is wrong
        if not beginning:
            return "empty"
        return None if beginning == _MAGIC else "no database any more"

    def put_aside(self) -> None:
        """What is left of it goes nowhere; its log must not meet the new one."""
        stamp, name = time.time_ns() // 1_000_000, self._path.name
        for path in sorted(self._path.parent.glob(f"{name}*")):
            if path.name in {name, f"{name}-wal", f"{name}-shm"}:
                path.rename(path.with_name(f"lost-{stamp}-{path.name}"))

    def has_keys(self) -> bool:
        """See `Driver`."""
        try:
            with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                return connection.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is not None
        except sqlite3.Error:
            return False


def _open(path: Path, **pool: int) -> Engine:
    engine = create_engine(f"sqlite:///{path}", **pool)
    event.listen(engine, "connect", _prepare_connection)
    return engine


def _prepare_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000}")
        _begin_write_ahead_log(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()
    except BaseException:
        # The pool never saw this connection, so nobody else would close it.
        connection.close()
        raise


def _begin_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    # A new file's change to WAL needs it alone, and SQLite refuses that at once whatever its busy timeout says: it
    # holds a lock already and would wait for somebody who waits for it.
    deadline_s = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return
