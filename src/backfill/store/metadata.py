"""Rows: files, batches, secrets. Every change is made whole or not at all, and says which state it expects to find."""

import functools
import secrets as random_source
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
from sqlalchemy import Connection, and_, bindparam, func, or_, select, update

from backfill.batch import Batch, File, FileStatus, State
from backfill.errors import NotFound
from backfill.store.database import Database
from backfill.store.database_opening import open_database
from backfill.store.driver import Driver
from backfill.store.leases import free_holders
from backfill.store.paging import behind, in_order
from backfill.store.reservations import BatchWatcher
from backfill.store.revision import choose_change
from backfill.store.rows import encode_values, to_batch, to_file, to_values
from backfill.store.schema import batches, files, secrets, slices
from backfill.store.slice_claims import Lease, make_slices
from backfill.store.sqlite import SqliteDriver
from backfill.store.turn_order import (
    BATCHES_IN_STATE,
    BY_TURN,
    LATEST_MS,
    Choose,
    Claimed,
    Wanted,
    claim_next,
    find_next,
)
from backfill.store.twins import seek_twin

__all__ = ["Metadata"]

_ACTIVE = [state for state in State if not state.is_final]
# Built once: SQLAlchemy takes longer to put a statement together than SQLite to carry it out.
_ALL = 1 << 62
_ADD_FILE = files.insert()
_ADD_BATCH = batches.insert()
_ADD_SLICE = slices.insert()
_FILE = select(files).where(files.c.id == bindparam("sought"))
_OWN_FILE = _FILE.where(
    files.c.owner == bindparam("owner"),
    or_(files.c.expires_at_ms.is_(None), files.c.expires_at_ms > bindparam("now")),
)
_BATCH = select(batches).where(batches.c.id == bindparam("sought"))
_WAITING = (
    select(batches, files.c.survey)
    .outerjoin(files, files.c.id == batches.c.input_file_id)
    .where(batches.c.state == State.VALIDATING)
    .order_by(*BY_TURN)
    .limit(bindparam("most"))
)
_EPOCHS = select(batches.c.id, batches.c.epoch).where(
    batches.c.id.in_(bindparam("sought", expanding=True)), batches.c.state == bindparam("in_state")
)


class Metadata:
    """The metadata database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: list[BatchWatcher] = []

    @classmethod
    async def open(
        cls, place: Driver | Path, *, is_shared: bool = False, holders: str = "", may_expand: bool = False
    ) -> Self:
        """Open a database, or SQLite's file at a path, creating it or bringing its schema up to date.

        `is_shared`: others work on it, and its schema is left as it is; with `may_expand` it is changed if all of them
        bear that. `holders`: others may, elsewhere, which have leases under names that begin otherwise.

        Raises:
            StoreUnavailable: it cannot be reached or used; `SchemaMismatch` because of its schema.
            InvalidConfig: the package that it takes is not installed.

        """
        driver = SqliteDriver(place) if isinstance(place, Path) else place

        def make_change(clock_ms: Callable[[], int]) -> Callable[[Connection], None]:
            return choose_change(clock_ms, is_shared=is_shared, holders=holders, may_expand=may_expand)

        return cls(await open_database(driver, make_change))

    @property
    def database(self) -> Database:
        """For the modules beside this one that have queries of their own."""
        return self._database

    def watch_batches(self, watcher: BatchWatcher) -> None:
        """Tell of each change of a batch's row from now on."""
        self._watchers.append(watcher)
        self._database.watch_failures(watcher.forget)

    async def close(self) -> None:
        """Close every connection."""
        await self._database.close()

    # Files

    async def add_file(self, file: File) -> None:
        """Insert a new file's row."""
        values = msgspec.structs.asdict(file)
        await self._database.write(lambda connection: connection.execute(_ADD_FILE, values))

    async def get_file(self, file_id: str, owner: str | None = None) -> File:
        """The file's row; raises NotFound if there is none.

        For an `owner`, a file of somebody else is not there, and neither is one whose time is over.
        """
        if owner is None:
            rows = await self._database.find(_FILE, {"sought": file_id})
        else:
            rows = await self._database.find(_OWN_FILE, {"sought": file_id, "owner": owner, "now": self._now_ms()})
        if not rows:
            message = f"No such file: {file_id}."
            raise NotFound(message, param="file_id")
        return to_file(rows[0])

    async def seal_file(self, file: File) -> bool:
        """Write the facts of a file whose bytes are here now; False if it was sealed before."""
        facts = msgspec.structs.asdict(file)
        condition = and_(files.c.id == file.id, files.c.status == FileStatus.RESERVED)
        query = update(files).where(condition).values(**facts)
        return await self._database.write(lambda connection: connection.execute(query).rowcount == 1)

    async def list_files(
        self, owner: str, *, purpose: str | None = None, after: str | None = None, limit: int, newest_first: bool = True
    ) -> list[File]:
        """The owner's files, from behind the file `after` on."""
        is_kept = or_(files.c.expires_at_ms.is_(None), files.c.expires_at_ms > self._now_ms())
        query = select(files).where(files.c.owner == owner, is_kept)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            edge = await self.get_file(after, owner)
            query = query.where(behind(files, edge.created_at_ms, edge.id, newest_first=newest_first))
        return [
            to_file(row) for row in await self._database.read(in_order(files, query, limit, newest_first=newest_first))
        ]

    async def find_expired_files(self, due_at_ms: int) -> list[File]:
        """Files whose time was over by then, without those that a batch reads which has not ended."""
        read = select(batches.c.input_file_id).where(batches.c.state.in_(_ACTIVE))
        query = select(files).where(files.c.expires_at_ms <= due_at_ms, files.c.id.not_in(read))
        return [to_file(row) for row in await self._database.read(query.order_by(files.c.expires_at_ms))]

    async def list_file_ids(self, status: FileStatus | None = None) -> set[str]:
        """The ids of all files, or of those in one status."""
        query = select(files.c.id)
        if status is not None:
            query = query.where(files.c.status == status)
        return {row.id for row in await self._database.read(query)}

    async def delete_file(self, file_id: str) -> None:
        """Remove the row."""
        query = files.delete().where(files.c.id == file_id)
        await self._database.write(lambda connection: connection.execute(query))

    # Batches

    async def add_batch(self, batch: Batch, *, repeats_since_ms: int | None = None) -> Batch:
        """Insert a new batch's row and give it; or write nothing and give what `find_repeated` finds for it."""
        added = await self.add_batch_if(lambda _: True, batch, repeats_since_ms=repeats_since_ms)
        assert added is not None  # noqa: S101 - the condition always holds
        return added

    async def add_batch_if(
        self, has_room: Callable[[Connection], bool], batch: Batch, *, repeats_since_ms: int | None = None
    ) -> Batch | None:
        """The same if `has_room`, which is asked in the same transaction; else nothing is written, and None is given.

        A batch that is found needs no room.
        """
        twin = seek_twin(batch.owner, batch.idempotency_key, batch.request_digest, repeats_since_ms)
        values = to_values(batch) | {"holder": None, "lease_until_ms": 0}

        def add(connection: Connection) -> Batch | None:
            if twin is not None and (row := connection.execute(*twin).first()):
                return to_batch(row)
            if not has_room(connection):
                return None
            connection.execute(_ADD_BATCH, values)
            for watcher in self._watchers:
                watcher.note_added(batch)
            return batch

        return await self._database.write(add)

    async def find_repeated(
        self, owner: str, key: str | None, digest: str, *, repeats_since_ms: int | None = None
    ) -> Batch | None:
        """The owner's batch of this idempotency key.

        Without a key but with `repeats_since_ms`: the newest one since then whose request had the same digest.
        """
        twin = seek_twin(owner, key, digest, repeats_since_ms)
        rows = () if twin is None else await self._database.read(*twin)
        return to_batch(rows[0]) if rows else None

    async def get_batch(self, batch_id: str, owner: str | None = None) -> Batch:
        """The batch's row; raises NotFound if there is none, or it belongs to another owner."""
        rows = await self._database.find(_BATCH, {"sought": batch_id})
        if not rows or owner not in (None, rows[0].owner):
            message = f"No such batch: {batch_id}."
            raise NotFound(message, param="batch_id")
        return to_batch(rows[0])

    async def list_batches(
        self,
        owner: str,
        *,
        after: str | None = None,
        limit: int,
        newest_first: bool = True,
        name: str | None = None,
        group: str | None = None,
    ) -> list[Batch]:
        """The owner's batches, or those of this name or whose metadata name this group, from behind `after` on."""
        asked = ((batches.c.name, name), (batches.c.metadata["group"].as_string(), group))
        conditions = [column == value for column, value in asked if value is not None]
        query = select(batches).where(batches.c.owner == owner, *conditions)
        if after is not None:
            edge = await self.get_batch(after, owner)
            query = query.where(behind(batches, edge.created_at_ms, edge.id, newest_first=newest_first))
        rows = await self._database.read(in_order(batches, query, limit, newest_first=newest_first))
        return [to_batch(row) for row in rows]

    async def find_batches(
        self,
        states: Iterable[State],
        *,
        free_at_ms: int | None = None,
        due_at_ms: int | None = None,
        besides: Collection[str] = (),
        limit: int | None = None,
    ) -> list[Batch]:
        """The first `limit` batches in one of the states, or all, earliest deadline first.

        `free_at_ms`: only those on which nobody holds a turn at that time. `due_at_ms`: only those whose deadline
        has come by then. `besides`: without these.
        """
        values = {
            "free_at": LATEST_MS if free_at_ms is None else free_at_ms,
            "due_at": LATEST_MS if due_at_ms is None else due_at_ms,
            # Those to be left out hold turns as a rule, and are not found.
            "most": _ALL if limit is None else limit + len(besides),
        }
        in_states = [values | {"in_state": state} for state in states]

        def look(connection: Connection) -> list[Batch]:
            # A query a state, each answered by the index in its order: as fast with ten thousand rows as with ten.
            rows = (row for each in in_states for row in connection.execute(BATCHES_IN_STATE, each))
            return [to_batch(row) for row in rows if row.id not in besides]

        found = await self._database.look(look)
        found.sort(key=lambda batch: (batch.deadline_at_ms, batch.created_at_ms, batch.id))
        return found if limit is None else found[:limit]

    async def find_next(self, wanted: Wanted) -> tuple[list[Batch], list[Batch]]:
        """Batches that are due first, and batches that are next in their owners' round."""
        return await self._database.look(lambda connection: find_next(connection, wanted))

    async def claim(self, wanted: Wanted, choose: Choose, lease: Lease) -> list[Claimed]:
        """What `choose` takes of what `find_next` gives, leased in the same transaction.

        Where rows are locked, what another process is about to take is not seen, so that nobody is in anybody's way.
        """
        return await self._database.write(lambda connection: claim_next(connection, wanted, choose, lease), alone=False)

    async def find_waiting(self, limit: int) -> list[tuple[Batch, bytes | None]]:
        """The first `limit` batches that are VALIDATING, each with its file's survey; None if the file is gone."""
        rows = await self._database.read(_WAITING, {"most": limit})
        return [(to_batch(row), row.survey) for row in rows]

    async def find_epochs(self, state: State, batch_ids: Collection[str]) -> Mapping[str, int]:
        """Id -> epoch of those of the batches that are in the state."""
        rows = await self._database.read(_EPOCHS, {"sought": list(batch_ids), "in_state": state})
        return {row.id: row.epoch for row in rows}

    async def list_batch_ids(self, *, only_unended: bool = False) -> set[str]:
        """The ids of all batches, or of those that have not ended."""
        query = select(batches.c.id)
        if only_unended:
            query = query.where(batches.c.state.in_(_ACTIVE))
        return {row.id for row in await self._database.read(query)}

    async def count_batches(self) -> dict[State, int]:
        """How many batches, of all owners, are in each state; states without any are left out."""
        query = select(batches.c.state, func.count().label("found")).group_by(batches.c.state)
        return {State(row.state): row.found for row in await self._database.read(query)}

    async def uses_file(self, file_id: str) -> str | None:
        """The id of a batch that has not ended and reads this file, if there is one."""
        query = select(batches).where(and_(batches.c.input_file_id == file_id, batches.c.state.in_(_ACTIVE)))
        rows = await self._database.read(query)
        return rows[0].id if rows else None

    async def change_batch(
        self,
        batch_id: str,
        *,
        state: State | None = None,
        epoch: int | None = None,
        values: dict[str, Any],
        new_files: Sequence[File] = (),
        new_slices: int = 0,
    ) -> bool:
        """Change the row if it is still in `state` and at `epoch`, and add files or slices in the same transaction.

        Returns False, and writes nothing, if it is not.
        """
        query = _build_change(tuple(values), in_state=state is not None, at_epoch=epoch is not None)
        wanted = encode_values(values) | {"sought": batch_id, "in_state": state, "at_epoch": epoch}
        rows = [msgspec.structs.asdict(file) for file in new_files]

        def make(connection: Connection) -> bool:
            if connection.execute(query, wanted).rowcount != 1:
                return False
            self.note_changed(batch_id, values)
            if rows:
                connection.execute(_ADD_FILE, rows)
            if new_slices:
                connection.execute(_ADD_SLICE, make_slices(batch_id, new_slices))
            return True

        # One row, and only as it is expected: right beside whatever else is written.
        return await self._database.write(make, alone=False)

    def note_changed(self, batch_id: str, values: Mapping[str, Any]) -> None:
        """These columns of a row are changed in the transaction that is being carried out, by a module beside this."""
        for watcher in self._watchers:
            watcher.note_changed(batch_id, values)

    async def free_turns(self, holders: str = "") -> None:
        """Forget all that holders have whose names begin so; only for who knows that they are dead."""
        await self._database.write(lambda connection: free_holders(connection, holders))

    async def renew_turns(self, holder: str, batch_ids: Collection[str], lease_until_ms: int) -> None:
        """Push the end of those leases of one holder."""
        held = and_(batches.c.holder == holder, batches.c.id.in_(batch_ids))
        query = update(batches).where(held).values(lease_until_ms=lease_until_ms)
        await self._database.write(lambda connection: connection.execute(query), alone=False)

    # Secrets

    async def get_secret(self, name: str, fresh: bytes | None = None) -> bytes:
        """What is kept under this name, the same ever after: what was given the first time, or 32 random bytes."""
        value = random_source.token_bytes(32) if fresh is None else fresh

        def find(connection: Connection) -> bytes:
            found = connection.scalar(select(secrets.c.value).where(secrets.c.name == name))
            if found is None:
                connection.execute(secrets.insert().values(name=name, value=value))
            return value if found is None else bytes(found)

        return await self._database.write(find)

    async def set_secret(self, name: str, value: bytes) -> None:
        """Keep this under the name, whatever was there."""

        def replace(connection: Connection) -> None:
            connection.execute(secrets.delete().where(secrets.c.name == name))
            connection.execute(secrets.insert().values(name=name, value=value))

        await self._database.write(replace)

    def _now_ms(self) -> int:
        return self._database.now_ms()


@functools.cache
def _build_change(columns: tuple[str, ...], *, in_state: bool, at_epoch: bool) -> Any:
    """A statement that sets the columns of one batch."""
    query = update(batches).where(batches.c.id == bindparam("sought"))
    if in_state:
        query = query.where(batches.c.state == bindparam("in_state"))
    if at_epoch:
        query = query.where(batches.c.epoch == bindparam("at_epoch"))
    return query.values({column: bindparam(column) for column in columns})
