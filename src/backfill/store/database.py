"""How statements reach SQLite: one thread writes, and carries the changes of several callers in one transaction.

A change is committed when its caller goes on, as if it had been alone. What comes in while a transaction is being
synced to disk goes into the next one together, so a thousand small changes cost some ten syncs.

SQLite through SQLAlchemy loses updates unless the transaction begins with BEGIN IMMEDIATE; the driver is therefore
kept from opening transactions of its own (`isolation_level=None`). Reading has an engine of its own without it.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import Row
from sqlalchemy.exc import SQLAlchemyError

from backfill.errors import StoreUnavailable
from backfill.store.faults import reach
from backfill.store.grouped_calls import GroupedCalls

__all__ = ["Change", "Database"]

# So that nobody waits long for the changes of others.
_CHANGES_AT_ONCE = 256
_READERS = 4
_FINDS_AT_ONCE = 32
_ANYTHING = text("SELECT count(*) FROM sqlite_schema")
_Result = TypeVar("_Result")

Change = Callable[[Connection], _Result]
"""Statements of one transaction. It may be carried out a second time if the first one was rolled back."""


class _Waiting(NamedTuple):
    change: Change[Any]
    outcome: "asyncio.Future[Any]"


class Database:
    """An SQLite file. Its threads are its own: work on large blobs must not hold it up."""

    def __init__(self, path: Path) -> None:
        self._writer = create_engine(f"sqlite:///{path}", pool_size=1, max_overflow=0)
        self._reader = create_engine(f"sqlite:///{path}")
        for engine in (self._writer, self._reader):
            event.listen(engine, "connect", _prepare_connection)
        event.listen(self._writer, "begin", _begin_immediate)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="metadata writer")
        self._reading = ThreadPoolExecutor(_READERS, thread_name_prefix="metadata reader")
        self._finding = GroupedCalls(_FINDS_AT_ONCE, self._reading)
        self._waiting: list[_Waiting] = []
        self._carrying: asyncio.Task[None] | None = None
        self._watchers: list[Callable[[], None]] = []

    def watch_failures(self, tell: Callable[[], None]) -> None:
        """Call `tell`, in the thread that writes, whenever a transaction comes to nothing."""
        self._watchers.append(tell)

    async def write(self, change: Change[_Result]) -> _Result:
        """Carry out a change; it is on disk when this returns. Raises StoreUnavailable, and then nothing is written."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_Result] = loop.create_future()
        self._waiting.append(_Waiting(change, outcome))
        if self._carrying is None or self._carrying.done():
            self._carrying = loop.create_task(self._carry_waiting(), name="write metadata")
        return await outcome

    async def read(self, query: Any, values: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        """All rows of a query, with these values for its parameters; raises StoreUnavailable."""
        return await self.look(lambda connection: connection.execute(query, values).all())

    async def find(self, query: Any, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """As `read`, for a query that reads a row or two by their key: many such go to a thread together."""

        def look(connection: Connection) -> Sequence[Row[Any]]:
            return connection.execute(query, values).all()

        return await self._finding.run(functools.partial(self._look, look))

    async def look(self, look: Callable[[Connection], _Result]) -> _Result:
        """What several queries find, one after the other; raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._look, look)

    async def check(self) -> None:
        """Raises StoreUnavailable unless it answers."""
        await self.read(_ANYTHING)

    async def close(self) -> None:
        """Finish what is being written and close every connection."""
        if self._carrying is not None:
            await self._carrying
        for threads in (self._writing, self._reading):
            threads.shutdown()
        self._writer.dispose()
        self._reader.dispose()

    async def _carry_waiting(self) -> None:
        while self._waiting:
            group = self._waiting[:_CHANGES_AT_ONCE]
            del self._waiting[:_CHANGES_AT_ONCE]
            changes = [waiting.change for waiting in group]
            found = await asyncio.get_running_loop().run_in_executor(self._writing, self._commit_each, changes)
            for waiting, result in zip(group, found, strict=True):
                # A caller that was cancelled does not wait any more.
                if waiting.outcome.done():
                    continue
                if isinstance(result, BaseException):
                    waiting.outcome.set_exception(result)
                else:
                    waiting.outcome.set_result(result)

    def _commit_each(self, changes: list[Change[Any]]) -> list[Any]:
        """What each change comes to, an exception if it fails."""
        try:
            return self._commit(changes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the caller whose change it was
            if len(changes) == 1:
                return [error]
        # One that fails must not take the others with it.
        return [result for change in changes for result in self._commit_each([change])]

    def _commit(self, changes: list[Change[Any]]) -> list[Any]:
        try:
            reach("metadata.begin")
            with self._writer.begin() as connection:
                results = [change(connection) for change in changes]
                reach("metadata.before_commit")
        except BaseException as error:
            for tell in self._watchers:
                tell()
            if isinstance(error, (SQLAlchemyError, OSError)):
                raise _unwritable(error) from error
            raise
        try:
            reach("metadata.committed")
        except OSError as error:
            # They are made, and must not be made again; but nobody may count on it.
            return [_unwritable(error) for _ in changes]
        return results

    def _look(self, look: Callable[[Connection], _Result]) -> _Result:
        try:
            reach("metadata.read")
            with self._reader.connect() as connection:
                return look(connection)
        except (SQLAlchemyError, OSError) as error:
            message = f"The metadata database cannot be read: {_find_reason(error)}."
            raise StoreUnavailable(message) from error


def _unwritable(error: SQLAlchemyError | OSError) -> StoreUnavailable:
    return StoreUnavailable(f"The metadata database cannot be written: {_find_reason(error)}.")


def _find_reason(error: SQLAlchemyError | OSError) -> str:
    """The driver's own words, without the statement and its values."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(getattr(error, "orig", None) or type(error).__name__)


def _prepare_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.close()
    except BaseException:
        # The pool never saw this connection, so nobody else would close it.
        connection.close()
        raise


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
