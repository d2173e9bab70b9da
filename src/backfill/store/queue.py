"""What waits and what was done of late, as forecasts need it: a few columns of many rows."""

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select
from sqlalchemy.engine import Row

from backfill.batch import Counts, Reservation, State
from backfill.store.database import Database
from backfill.store.schema import batches, slices

__all__ = ["EndedBatch", "QueuedBatch", "count_slices_left", "list_slices_left", "read_ended", "read_queue"]


class QueuedBatch(msgspec.Struct, frozen=True):
    """A batch of which lines are still to be sent."""

    id: str
    owner: str
    endpoint: str
    model_id: str | None
    input_size_bytes: int
    priority: int
    created_at_ms: int
    deadline_at_ms: int
    counts: Counts
    reserved: dict[str, Reservation]
    slices: int = 0


class EndedBatch(msgspec.Struct, frozen=True):
    """A batch whose lines were all sent."""

    endpoint: str
    model_id: str | None
    input_size_bytes: int
    started_at_ms: int
    closing_at_ms: int
    counts: Counts
    reserved: dict[str, Reservation]


_QUEUE = (
    select(*(batches.c[name] for name in QueuedBatch.__struct_fields__))
    .where(batches.c.state.in_([State.VALIDATING, State.IN_PROGRESS]))
    .order_by(batches.c.deadline_at_ms)
    .limit(bindparam("most"))
)
_SLICES_LEFT = (
    select(slices.c.batch_id, func.count().label("left"))
    .where(slices.c.batch_id.in_(bindparam("sought", expanding=True)), slices.c.drained_as.is_(None))
    .group_by(slices.c.batch_id)
)
_NUMBERS_LEFT = select(slices.c.batch_id, slices.c.number).where(
    slices.c.batch_id.in_(bindparam("sought", expanding=True)), slices.c.drained_as.is_(None)
)
_ENDED = (
    select(*(batches.c[name] for name in EndedBatch.__struct_fields__))
    .where(
        batches.c.state == State.COMPLETED,
        batches.c.started_at_ms.is_not(None),
        batches.c.closing_at_ms.is_not(None),
    )
    # As the index of turns has them: nearly that of their ends, and found without looking at all.
    .order_by(batches.c.deadline_at_ms.desc())
    .limit(bindparam("most"))
)


async def read_queue(database: Database, most: int) -> list[QueuedBatch]:
    """Batches of which lines are to be sent, those with the earliest deadlines if there are more than `most`."""
    rows = await database.read(_QUEUE, {"most": most})
    return [msgspec.convert(_to_dict(row), QueuedBatch) for row in rows]


async def count_slices_left(database: Database, batch_ids: Collection[str]) -> dict[str, int]:
    """Batch that was cut -> of how many of its slices lines are to be sent."""
    return {row.batch_id: row.left for row in await database.read(_SLICES_LEFT, {"sought": [*batch_ids]})}


async def list_slices_left(database: Database, batch_ids: Collection[str]) -> dict[str, set[int]]:
    """Batch that was cut -> the numbers of its slices of which lines are to be sent."""
    left: dict[str, set[int]] = {}
    for row in await database.read(_NUMBERS_LEFT, {"sought": [*batch_ids]}):
        left.setdefault(row.batch_id, set()).add(row.number)
    return left


async def read_ended(database: Database, most: int) -> list[EndedBatch]:
    """Batches that were completed of late."""
    rows = await database.read(_ENDED, {"most": most})
    return [msgspec.convert(_to_dict(row), EndedBatch) for row in rows]


def _to_dict(row: Row[Any]) -> dict[str, Any]:
    # SQLAlchemy's own keys are a subclass of str, which msgspec does not take.
    return {str(name): value for name, value in row._asdict().items()}
