"""Rows of API keys. Only their digests are here: whoever reads the database cannot use one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, select, update

from backfill.api_key import ApiKey
from backfill.store.callouts import KEYS
from backfill.store.change_mark import ChangeMark
from backfill.store.database import Change, Database
from backfill.store.schema import api_keys

__all__ = ["ApiKeys"]

_Result = TypeVar("_Result")
_MARK = "keys.mark"
_ALL = select(api_keys).order_by(api_keys.c.created_at_ms, api_keys.c.id)
_ADD = api_keys.insert()
_REVOKE = (
    update(api_keys)
    .where(api_keys.c.id == bindparam("sought"), api_keys.c.revoked_at_ms.is_(None))
    .values(revoked_at_ms=bindparam("now"))
)
_NOTE_USE = update(api_keys).where(api_keys.c.id == bindparam("sought")).values(last_used_at_ms=bindparam("at"))


class ApiKeys:
    """The keys of one data directory, which other processes may change too."""

    def __init__(self, database: Database, mark: ChangeMark) -> None:
        self._database = database
        self._mark = mark

    @classmethod
    def open(cls, database: Database, data_dir: Path) -> Self:
        """Over the database of this data directory; raises StoreUnavailable."""
        return cls(database, ChangeMark(data_dir / _MARK))

    @property
    def mark(self) -> bytes:
        """Another one than before if a key was made or revoked since, by whatever process."""
        return self._mark.read()

    async def list(self) -> list[ApiKey]:
        """All keys that ever were, oldest first."""
        return [
            msgspec.convert({str(name): value for name, value in row._asdict().items()}, ApiKey)
            for row in await self._database.read(_ALL)
        ]

    async def add(self, key: ApiKey) -> None:
        """Insert a new key's row."""
        values = msgspec.structs.asdict(key) | {
            "scopes": msgspec.to_builtins(key.scopes),
            "limits": msgspec.to_builtins(key.limits),
        }
        await self._change(lambda connection: connection.execute(_ADD, values))

    async def revoke(self, key_id: str, now_ms: int) -> bool:
        """Let nobody in with this key any more; False if there is none of this id, or it was revoked before."""
        values = {"sought": key_id, "now": now_ms}
        return await self._change(lambda connection: connection.execute(_REVOKE, values).rowcount == 1)

    async def note_uses(self, at_ms: Mapping[str, int]) -> None:
        """Write when these keys were used the last time. Nobody has to read them again for that."""
        values = [{"sought": key_id, "at": each} for key_id, each in at_ms.items()]
        await self._database.write(lambda connection: connection.execute(_NOTE_USE, values), alone=False)

    async def _change(self, change: Change[_Result]) -> _Result:
        def make(connection: Connection) -> _Result:
            result = change(connection)
            self._database.driver.call_out(connection, f"- {KEYS}")
            return result

        try:
            return await self._database.write(make)
        finally:
            # Also of one that failed: it may be on disk for all that.
            self._mark.renew()

    def note_change(self) -> None:
        """A process elsewhere has changed a key: those on this data directory shall look again."""
        self._mark.renew()

    def close(self) -> None:
        """Give the mark's memory back; the database is somebody else's."""
        self._mark.close()
