"""Rows: files, batches, secrets. Every change is one transaction, and says which state it expects to find.

SQLite through SQLAlchemy loses updates unless the transaction begins with BEGIN IMMEDIATE; the driver is therefore
kept from opening transactions of its own (`isolation_level=None`). Reading has an engine of its own without it.
"""

import asyncio
import os
import secrets as random_source
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, and_, event, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or_ignore
from sqlalchemy.engine import Row
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backfill.batch import Batch, BatchProblem, Counts, File, FileStatus, State
from backfill.errors import NotFound, StoreUnavailable
from backfill.store.faults import reach
from backfill.store.schema import batches, files, secrets

__all__ = ["Metadata"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_TURN_COLUMNS = ("holder", "lease_until_ms")
_ACTIVE = [state for state in State if not state.is_final]


class Metadata:
    """The metadata database of one data directory."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self._writer = writer
        self._reader = reader

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the SQLite file at `path`, creating it or bringing its schema up to date; raises StoreUnavailable."""
        writer = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0)
        reader = create_async_engine(f"sqlite+aiosqlite:///{path}")
        for engine in (writer, reader):
            event.listen(engine.sync_engine, "connect", _prepare_connection)
        event.listen(writer.sync_engine, "begin", _begin_immediate)
        try:
            async with writer.begin() as connection:
                await connection.run_sync(_migrate)
            await asyncio.to_thread(path.chmod, 0o600)
        except SQLAlchemyError as error:
            await writer.dispose()
            message = f"The metadata database {path} cannot be opened: {_reason(error)}."
            raise StoreUnavailable(message) from error
        return cls(writer, reader)

    async def close(self) -> None:
        """Close every connection."""
        await self._writer.dispose()
        await self._reader.dispose()

    # Files

    async def add_file(self, file: File) -> None:
        """Insert a new file's row."""
        async with self._write() as connection:
            await connection.execute(files.insert().values(**msgspec.structs.asdict(file)))

    async def get_file(self, file_id: str, owner: str | None = None) -> File:
        """The file's row; raises NotFound if there is none.

        For an `owner`, a file of somebody else is not there, and neither is one whose time is over.
        """
        query = select(files).where(files.c.id == file_id)
        if owner is not None:
            query = query.where(files.c.owner == owner, _is_kept())
        rows = await self._read(query)
        if not rows:
            message = f"No such file: {file_id}."
            raise NotFound(message, param="file_id")
        return _to_file(rows[0])

    async def seal_file(self, file: File) -> bool:
        """Write the facts of a file whose bytes are here now; False if it was sealed before."""
        facts = msgspec.structs.asdict(file)
        condition = and_(files.c.id == file.id, files.c.status == FileStatus.RESERVED)
        async with self._write() as connection:
            result = await connection.execute(update(files).where(condition).values(**facts))
            return result.rowcount == 1

    async def list_files(
        self, owner: str, *, purpose: str | None = None, after: str | None = None, limit: int, newest_first: bool = True
    ) -> list[File]:
        """The owner's files, from behind the file `after` on."""
        query = select(files).where(files.c.owner == owner, _is_kept())
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            edge = await self.get_file(after, owner)
            query = query.where(_behind(files, edge.created_at_ms, edge.id, newest_first=newest_first))
        return [_to_file(row) for row in await self._read(_in_order(files, query, limit, newest_first=newest_first))]

    async def find_expired_files(self, due_at_ms: int) -> list[File]:
        """Files whose time was over by then, without those that a batch reads which has not ended."""
        read = select(batches.c.input_file_id).where(batches.c.state.in_(_ACTIVE))
        query = select(files).where(files.c.expires_at_ms <= due_at_ms, files.c.id.not_in(read))
        return [_to_file(row) for row in await self._read(query.order_by(files.c.expires_at_ms))]

    async def list_file_ids(self, status: FileStatus | None = None) -> set[str]:
        """The ids of all files, or of those in one status."""
        query = select(files.c.id)
        if status is not None:
            query = query.where(files.c.status == status)
        return {row.id for row in await self._read(query)}

    async def delete_file(self, file_id: str) -> None:
        """Remove the row."""
        async with self._write() as connection:
            await connection.execute(files.delete().where(files.c.id == file_id))

    # Batches

    async def add_batch(self, batch: Batch, *, repeats_since_ms: int | None = None) -> Batch:
        """Insert a new batch's row and give it; or write nothing and give what `find_repeated` finds for it."""
        twin = _find_twin(batch.owner, batch.idempotency_key, batch.request_digest, repeats_since_ms)
        async with self._write() as connection:
            if twin is not None and (row := (await connection.execute(twin)).first()):
                return _to_batch(row)
            await connection.execute(batches.insert().values(**_to_values(batch), holder=None, lease_until_ms=0))
            return batch

    async def find_repeated(
        self, owner: str, key: str | None, digest: str, *, repeats_since_ms: int | None = None
    ) -> Batch | None:
        """The owner's batch of this idempotency key.

        Without a key but with `repeats_since_ms`: the newest one since then whose request had the same digest.
        """
        twin = _find_twin(owner, key, digest, repeats_since_ms)
        rows = await self._read(twin) if twin is not None else ()
        return _to_batch(rows[0]) if rows else None

    async def get_batch(self, batch_id: str, owner: str | None = None) -> Batch:
        """The batch's row; raises NotFound if there is none, or it belongs to another owner."""
        query = select(batches).where(batches.c.id == batch_id)
        if owner is not None:
            query = query.where(batches.c.owner == owner)
        rows = await self._read(query)
        if not rows:
            message = f"No such batch: {batch_id}."
            raise NotFound(message, param="batch_id")
        return _to_batch(rows[0])

    async def list_batches(
        self, owner: str, *, after: str | None = None, limit: int, newest_first: bool = True
    ) -> list[Batch]:
        """The owner's batches, from behind the batch `after` on."""
        query = select(batches).where(batches.c.owner == owner)
        if after is not None:
            edge = await self.get_batch(after, owner)
            query = query.where(_behind(batches, edge.created_at_ms, edge.id, newest_first=newest_first))
        rows = await self._read(_in_order(batches, query, limit, newest_first=newest_first))
        return [_to_batch(row) for row in rows]

    async def find_batches(
        self, states: Iterable[State], *, free_at_ms: int | None = None, due_at_ms: int | None = None
    ) -> list[Batch]:
        """Batches in one of the states, earliest deadline first.

        `free_at_ms`: only those on which nobody holds a turn at that time. `due_at_ms`: only those whose deadline
        has come by then.
        """
        query = select(batches).where(batches.c.state.in_(list(states)))
        if free_at_ms is not None:
            query = query.where(or_(batches.c.holder.is_(None), batches.c.lease_until_ms < free_at_ms))
        if due_at_ms is not None:
            query = query.where(batches.c.deadline_at_ms <= due_at_ms)
        order = (batches.c.deadline_at_ms, batches.c.created_at_ms, batches.c.id)
        return [_to_batch(row) for row in await self._read(query.order_by(*order))]

    async def count_batches(self) -> dict[State, int]:
        """How many batches, of all owners, are in each state; states without any are left out."""
        query = select(batches.c.state, func.count().label("found")).group_by(batches.c.state)
        return {State(row.state): row.found for row in await self._read(query)}

    async def find_webhooks(self, due_at_ms: int, limit: int) -> list[Batch]:
        """Batches that have ended and of whose end the outside is to be told by then, longest due first."""
        query = select(batches).where(batches.c.webhook_due_at_ms <= due_at_ms)
        order = (batches.c.webhook_due_at_ms, batches.c.id)
        return [_to_batch(row) for row in await self._read(query.order_by(*order).limit(limit))]

    async def uses_file(self, file_id: str) -> str | None:
        """The id of a batch that has not ended and reads this file, if there is one."""
        query = select(batches).where(and_(batches.c.input_file_id == file_id, batches.c.state.in_(_ACTIVE)))
        rows = await self._read(query)
        return rows[0].id if rows else None

    async def change_batch(
        self,
        batch_id: str,
        *,
        state: State | None = None,
        epoch: int | None = None,
        values: dict[str, Any],
        new_files: Sequence[File] = (),
    ) -> bool:
        """Change the row if it is still in `state` and at `epoch`, and add `new_files` in the same transaction.

        Returns False, and writes nothing, if it is not.
        """
        condition = batches.c.id == batch_id
        if state is not None:
            condition = and_(condition, batches.c.state == state)
        if epoch is not None:
            condition = and_(condition, batches.c.epoch == epoch)
        async with self._write() as connection:
            result = await connection.execute(update(batches).where(condition).values(**_encode(values)))
            if result.rowcount != 1:
                return False
            for file in new_files:
                await connection.execute(files.insert().values(**msgspec.structs.asdict(file)))
            return True

    async def free_all_turns(self) -> None:
        """Forget every lease. Only for a process that alone holds the data directory."""
        async with self._write() as connection:
            await connection.execute(update(batches).where(batches.c.holder.is_not(None)).values(holder=None))

    async def renew_turns(self, holder: str, lease_until_ms: int) -> None:
        """Push the end of all leases of one holder."""
        async with self._write() as connection:
            query = update(batches).where(batches.c.holder == holder).values(lease_until_ms=lease_until_ms)
            await connection.execute(query)

    # Secrets

    async def get_secret(self, name: str) -> bytes:
        """32 random bytes under this name, the same ever after."""
        fresh = random_source.token_bytes(32)
        async with self._write() as connection:
            await connection.execute(insert_or_ignore(secrets).values(name=name, value=fresh).on_conflict_do_nothing())
            rows = (await connection.execute(select(secrets.c.value).where(secrets.c.name == name))).all()
        return bytes(rows[0].value)

    # How

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._writer.begin() as connection:
                yield connection
                reach("metadata.before_commit")
        except SQLAlchemyError as error:
            message = f"The metadata database cannot be written: {_reason(error)}."
            raise StoreUnavailable(message) from error
        reach("metadata.committed")

    async def _read(self, query: Any) -> Sequence[Row[Any]]:
        try:
            async with self._reader.connect() as connection:
                return (await connection.execute(query)).all()
        except SQLAlchemyError as error:
            message = f"The metadata database cannot be read: {_reason(error)}."
            raise StoreUnavailable(message) from error


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


def _migrate(connection: Connection) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", os.fspath(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _find_twin(owner: str, key: str | None, digest: str, repeats_since_ms: int | None) -> Any:
    """The query for the batch that was made of the same request, if one can be told."""
    query = select(batches).where(batches.c.owner == owner)
    if key is not None:
        return query.where(batches.c.idempotency_key == key)
    if repeats_since_ms is None:
        return None
    query = query.where(and_(batches.c.request_digest == digest, batches.c.created_at_ms >= repeats_since_ms))
    return _in_order(batches, query, 1, newest_first=True)


def _is_kept() -> Any:
    """The time of the file is not over."""
    return or_(files.c.expires_at_ms.is_(None), files.c.expires_at_ms > time.time_ns() // 1_000_000)


def _behind(table: Any, created_at_ms: int, row_id: str, *, newest_first: bool) -> Any:
    """The rows that follow one row in the order of `_in_order`."""
    created, identity = table.c.created_at_ms, table.c.id
    if newest_first:
        return or_(created < created_at_ms, and_(created == created_at_ms, identity < row_id))
    return or_(created > created_at_ms, and_(created == created_at_ms, identity > row_id))


def _in_order(table: Any, query: Any, limit: int, *, newest_first: bool) -> Any:
    columns = (table.c.created_at_ms, table.c.id)
    return query.order_by(*(column.desc() if newest_first else column.asc() for column in columns)).limit(limit)


def _to_dict(row: Row[Any]) -> dict[str, Any]:
    # SQLAlchemy's own keys are a subclass of str, which msgspec does not take.
    return {str(name): value for name, value in row._asdict().items()}


def _to_file(row: Row[Any]) -> File:
    return msgspec.convert(_to_dict(row), File)


def _to_batch(row: Row[Any]) -> Batch:
    values = {name: value for name, value in _to_dict(row).items() if name not in _TURN_COLUMNS}
    return msgspec.convert(values, Batch)


def _to_values(batch: Batch) -> dict[str, Any]:
    return _encode(msgspec.structs.asdict(batch))


def _encode(values: dict[str, Any]) -> dict[str, Any]:
    """Nested structs as what a JSON column takes."""
    nested = (BatchProblem, Counts, tuple)
    return {name: msgspec.to_builtins(value) if isinstance(value, nested) else value for name, value in values.items()}


def _reason(error: SQLAlchemyError) -> str:
    """The driver's own words, without the statement and its values."""
    return str(getattr(error, "orig", None) or type(error).__name__)
