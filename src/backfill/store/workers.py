"""The processes that have engines, as each told of itself: who they are, when they were last seen, what they do."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, select

from backfill.status import WorkerReport, WorkerStatus
from backfill.store.database import Database
from backfill.store.schema import leases, workers

__all__ = ["Workers", "note_ends"]

_ALL = select(workers).order_by(workers.c.started_at_ms, workers.c.id)
_ON_DUTY = select(workers.c.told).where(
    workers.c.id == select(leases.c.holder).where(leases.c.name == bindparam("duty")).scalar_subquery()
)
_NAMED_SO = select(workers.c.id, workers.c.told)
_REPLACED = workers.delete().where(workers.c.id == bindparam("sought"))
_OLD = workers.delete().where(workers.c.seen_at_ms < bindparam("before"))


class Workers:
    """Their rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, worker: WorkerStatus, forget_before_ms: int) -> None:
        """Write what a worker is now, and remove those that were last seen before some time."""
        row = {name: getattr(worker, name) for name in worker.__struct_fields__ if name != "report"}
        row["told"] = msgspec.to_builtins(worker.report)

        def change(connection: Connection) -> None:
            connection.execute(_REPLACED, {"sought": worker.id})
            connection.execute(_OLD, {"before": forget_before_ms})
            connection.execute(workers.insert(), row)

        await self._database.write(change)

    async def remove(self, worker_id: str) -> None:
        """Forget one that has ended."""
        await self._database.write(lambda connection: connection.execute(_REPLACED, {"sought": worker_id}))

    async def find_on_duty(self, duty: str) -> WorkerReport | None:
        """What that one told last who has the duty, or had it last."""
        rows = await self._database.find(_ON_DUTY, {"duty": duty})
        return msgspec.convert(rows[0].told, WorkerReport) if rows else None

    async def list(self) -> Sequence[WorkerStatus]:
        """All that are known, oldest first."""
        return [
            WorkerStatus(
                id=row.id,
                role=row.role,
                host=row.host,
                pid=row.pid,
                version=row.version,
                started_at_ms=row.started_at_ms,
                seen_at_ms=row.seen_at_ms,
                report=msgspec.convert(row.told, WorkerReport),
            )
            for row in await self._database.read(_ALL)
        ]


def note_ends(connection: Connection, holders: str) -> None:
    """These are dead whose names begin so: of each it stays known for a while which models it had."""
    for row in connection.execute(_NAMED_SO.where(workers.c.id.startswith(holders, autoescape=True))).all():
        told = msgspec.convert(row.told, WorkerReport)
        ended = msgspec.to_builtins(told.end())
        connection.execute(workers.update().where(workers.c.id == row.id).values(told=ended))
