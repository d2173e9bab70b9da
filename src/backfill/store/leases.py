"""Who does what only one process at a time may do: a row for each such thing, with a time at which it is free again."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select

from backfill.store.database import Database
from backfill.store.schema import batches, leases, slices
from backfill.store.slice_claims import NONE_FREE
from backfill.store.workers import note_ends

__all__ = ["Leases", "free_holders"]

_ROW = select(leases).where(leases.c.name == bindparam("sought"))
_RENEW = (
    leases.update()
    .where(leases.c.name == bindparam("sought"), leases.c.holder == bindparam("mine"))
    .values(lease_until_ms=bindparam("until"))
)
_TAKE = (
    leases.update()
    .where(leases.c.name == bindparam("sought"), leases.c.lease_until_ms < bindparam("now"))
    .values(holder=bindparam("mine"), lease_until_ms=bindparam("until"), epoch=leases.c.epoch + 1)
)
_GIVE_BACK = leases.delete().where(leases.c.name == bindparam("sought"), leases.c.holder == bindparam("mine"))


class Leases:
    """The leases of one data directory, as one holder sees them."""

    def __init__(self, database: Database, holder: str, clock_ms: Callable[[], int], lease_ms: int) -> None:
        self._database = database
        self._holder = holder
        self._clock_ms = clock_ms
        self.lease_ms = lease_ms
        """How long a lease holds that is not renewed."""

    async def take(self, name: str) -> bool:
        """Whether the lease is ours from now on, for `lease_ms`: it was already, or nobody had it."""
        now = self._clock_ms()
        # Nearly always somebody has it, and a look costs the writers of all processes nothing.
        rows = await self._database.find(_ROW, {"sought": name})
        if rows and rows[0].holder != self._holder and rows[0].lease_until_ms >= now:
            return False
        values = {"sought": name, "mine": self._holder, "now": now, "until": now + self.lease_ms}

        def change(connection: Connection) -> bool:
            if connection.execute(_RENEW, values).rowcount or connection.execute(_TAKE, values).rowcount:
                return True
            if connection.execute(_ROW, values).first():
                return False
            row = {"name": name, "holder": self._holder, "lease_until_ms": values["until"], "epoch": 1}
            connection.execute(leases.insert(), row)
            return True

        return await self._database.write(change)

    async def is_held(self, name: str) -> bool:
        """Whether anybody has it now."""
        rows = await self._database.find(_ROW, {"sought": name})
        return bool(rows) and rows[0].lease_until_ms >= self._clock_ms()

    async def give_back(self, name: str) -> None:
        """Let others have it at once, if it is ours."""
        values = {"sought": name, "mine": self._holder}
        await self._database.write(lambda connection: connection.execute(_GIVE_BACK, values))

    async def sweep(self) -> None:
        """Remove what ran out long ago: of uploads that a dead process had under way."""
        old = leases.delete().where(leases.c.lease_until_ms < self._clock_ms() - 100 * self.lease_ms)
        await self._database.write(lambda connection: connection.execute(old))


def free_holders(connection: Connection, holders: str) -> None:
    """For who knows that holders are dead whose names begin so: all that they held is free."""
    for change in _list_changes_to_free(holders):
        connection.execute(change)
    note_ends(connection, holders)


def _list_changes_to_free(holders: str) -> tuple[Any, ...]:
    return (
        batches.update()
        .where(or_(batches.c.holder.startswith(holders, autoescape=True), batches.c.holder == NONE_FREE))
        .values(holder=None),
        slices.update().where(slices.c.holder.startswith(holders, autoescape=True)).values(holder=None),
        leases.delete().where(leases.c.holder.startswith(holders, autoescape=True)),
    )
