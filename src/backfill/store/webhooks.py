"""Of whose end the outside is to be told: at the server's own address, and at those that batches name themselves."""

from collections.abc import Collection
from enum import StrEnum

from sqlalchemy import select

from backfill.batch import Batch
from backfill.store.database import Database
from backfill.store.rows import to_batch
from backfill.store.schema import batches

__all__ = ["WebhookKind", "find_webhooks"]


class WebhookKind(StrEnum):
    """Whose address it is: what the columns begin with."""

    SERVER = "webhook"
    BATCH = "own_webhook"


async def find_webhooks(
    database: Database, kind: WebhookKind, due_at_ms: int, limit: int, besides_owners: Collection[str] = ()
) -> list[Batch]:
    """Batches that have ended and of whose end that address is to be told by then, longest due first."""
    due = batches.c[f"{kind}_due_at_ms"]
    query = select(batches).where(due <= due_at_ms)
    if besides_owners:
        query = query.where(batches.c.owner.not_in(list(besides_owners)))
    return [to_batch(row) for row in await database.read(query.order_by(due, batches.c.id).limit(limit))]
