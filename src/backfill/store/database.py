"""How statements reach the database: one thread writes, and carries the changes of several callers in one transaction.

A change is committed when its caller goes on, as if it had been alone. What comes in while a transaction is being
synced to disk goes into the next one together, so a thousand small changes cost some ten syncs.

What a change reads holds until its commit: no other change is carried out beside it, in this process or another, but
for those that say themselves that they bear it. Which database it is, and what it says, its `Driver` knows.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, literal, select
from sqlalchemy.engine import Row
from sqlalchemy.exc import SQLAlchemyError

from backfill.errors import InvalidInput, StoreUnavailable
from backfill.store.driver import Driver
from backfill.store.faults import reach
from backfill.store.grouped_calls import GroupedCalls

__all__ = ["Change", "Database"]

# So that nobody waits long for the changes of others.
_CHANGES_AT_ONCE = 256
_READERS = 4
_FINDS_AT_ONCE = 32
# How often what found a connection dead, or had to give way to another process, is tried.
_TRIES = 3
_ANYTHING = select(literal(1))
_Result = TypeVar("_Result")

Change = Callable[[Connection], _Result]
"""Statements of one transaction. It may be carried out a second time if the first one was rolled back."""


class _Waiting(NamedTuple):
    change: Change[Any]
    outcome: "asyncio.Future[Any]"
    alone: bool


class _UncertainCommit(Exception):
    """The connection was lost with the commit under way: whether it is made nobody knows now."""

    def __init__(self, cause: SQLAlchemyError) -> None:
        super().__init__()
        self.cause = cause


class Database:
    """The database of a driver. Its threads are its own: work on large blobs must not hold it up."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._writer = driver.open_writer()
        self._reader = driver.open_reader(_READERS)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="metadata writer")
        self._reading = ThreadPoolExecutor(_READERS, thread_name_prefix="metadata reader")
        self._finding = GroupedCalls(_FINDS_AT_ONCE, self._reading)
        self._waiting: list[_Waiting] = []
        self._carrying: asyncio.Task[None] | None = None
        self._watchers: list[Callable[[], None]] = []

    @property
    def many_writers(self) -> bool:
        """See `Driver`."""
        return self.driver.many_writers

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the clock that all processes on this database share."""
        return self.driver.now_ms()

    def watch_failures(self, tell: Callable[[], None]) -> None:
        """Call `tell`, in the thread that writes, whenever a transaction comes to nothing."""
        self._watchers.append(tell)

    async def write(self, change: Change[_Result], *, alone: bool = True) -> _Result:
        """Carry out a change; it is on disk when this returns.

        `alone=False`: its statements are right beside any others, so it waits for no other process.

        Raises:
            StoreUnavailable: nothing is written, unless the connection was lost in the middle of the commit.
            InvalidInput: the database cannot keep such a value.

        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_Result] = loop.create_future()
        self._waiting.append(_Waiting(change, outcome, alone))
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
            found = await asyncio.get_running_loop().run_in_executor(self._writing, self._commit_each, group)
            for waiting, result in zip(group, found, strict=True):
                # A caller that was cancelled does not wait any more.
                if waiting.outcome.done():
                    continue
                if isinstance(result, BaseException):
                    waiting.outcome.set_exception(result)
                else:
                    waiting.outcome.set_result(result)

    def _commit_each(self, group: list[_Waiting]) -> list[Any]:
        """What each change comes to, an exception if it fails."""
        try:
            return self._commit(group)
        except _UncertainCommit as error:
            # They may be made, and must not be made again.
            return [self._name_unwritable(error.cause) for _ in group]
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the caller whose change it was
            if len(group) == 1:
                return [error]
            if isinstance(error.__cause__, SQLAlchemyError) and self.driver.is_out(error.__cause__):
                return [self._name_unwritable(error.__cause__) for _ in group]
        # One that fails must not take the others with it.
        return [result for waiting in group for result in self._commit_each([waiting])]

    def _commit(self, group: list[_Waiting]) -> list[Any]:
        results = self._carry_out_repeatedly(group)
        try:
            reach("metadata.committed")
        except OSError as error:
            # They are made, and must not be made again; but nobody may count on it.
            return [self._name_unwritable(error) for _ in group]
        return results

    def _carry_out_repeatedly(self, group: list[_Waiting]) -> list[Any]:
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._carry_out(group)
            except BaseException as error:
                for tell in self._watchers:
                    tell()
                if not isinstance(error, (SQLAlchemyError, OSError)):
                    raise
                if isinstance(error, OSError) or not (tries_left and self.driver.may_repeat(error)):
                    raise self._name_unwritable(error) from error
        raise AssertionError  # the last try returns or raises

    def _carry_out(self, group: list[_Waiting]) -> list[Any]:
        reach("metadata.begin")
        with self._writer.connect() as connection, connection.begin() as transaction:
            self.driver.begin(connection, alone=any(waiting.alone for waiting in group))
            results = [waiting.change(connection) for waiting in group]
            reach("metadata.before_commit")
            try:
                transaction.commit()
            except SQLAlchemyError as error:
                if self.driver.is_out(error):
                    raise _UncertainCommit(error) from error
                raise
        return results

    def _look(self, look: Callable[[Connection], _Result]) -> _Result:
        for tries_left in reversed(range(_TRIES)):
            try:
                reach("metadata.read")
                with self._reader.connect() as connection:
                    return look(connection)
            except (SQLAlchemyError, OSError) as error:
                if isinstance(error, OSError) or not (tries_left and self.driver.may_repeat(error)):
                    raise self._name_failure(error, "read") from error
        raise AssertionError  # the last try returns or raises

    def _name_unwritable(self, error: SQLAlchemyError | OSError) -> StoreUnavailable | InvalidInput:
        return self._name_failure(error, "written")

    def _name_failure(self, error: SQLAlchemyError | OSError, how: str) -> StoreUnavailable | InvalidInput:
        if isinstance(error, OSError):
            return StoreUnavailable(f"The metadata database cannot be {how}: {error.strerror or type(error).__name__}.")
        if self.driver.is_of_values(error):
            return InvalidInput("A text is too long for the database, or holds a character that it cannot keep (NUL).")
        reason = self.driver.explain(error)
        named = StoreUnavailable(f"The metadata database cannot be {how}: {reason}.")
        # Where a database is that cannot be reached is no client's business.
        named.reason = "the database cannot be reached" if self.driver.is_out(error) else reason
        return named
