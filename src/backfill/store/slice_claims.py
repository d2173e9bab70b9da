"""How slices of a batch are taken, within the transaction in which the batch is found."""

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, or_, select, update

from backfill.batch import Batch, State
from backfill.store.schema import batches, slices

__all__ = ["NONE_FREE", "ClaimedSlice", "Lease", "claim_slices", "lock_batch", "make_slices", "tell_holder"]

NONE_FREE = "slices"
"""Stands in the row of a batch as its holder while each of its slices has one, or is drained."""
_BATCH = select(batches.c.state, batches.c.epoch).where(batches.c.id == bindparam("sought")).with_for_update()
_TELL_HOLDER = (
    update(batches)
    .where(batches.c.id == bindparam("sought"))
    .values(holder=bindparam("by"), lease_until_ms=bindparam("until"), epoch=bindparam("at_epoch"))
)
_OF_BATCH = slices.c.batch_id == bindparam("sought")
_IS_LEFT = slices.c.drained_as.is_(None)
_FREE = (
    select(slices)
    .where(_OF_BATCH, _IS_LEFT, or_(slices.c.holder.is_(None), slices.c.lease_until_ms < bindparam("now")))
    .order_by(slices.c.number)
    .limit(bindparam("most"))
)
_TAKE = (
    update(slices)
    .where(_OF_BATCH, slices.c.number.in_(bindparam("chosen", expanding=True)))
    .values(holder=bindparam("mine"), lease_until_ms=bindparam("until"), epoch=slices.c.epoch + 1)
)
_FIRST_END = select(func.min(slices.c.lease_until_ms)).where(_OF_BATCH, _IS_LEFT)


class Lease(NamedTuple):
    """Who takes a turn, and until when."""

    holder: str
    lease_until_ms: int


class ClaimedSlice(NamedTuple):
    """A slice that somebody has from now on; 0: all of a batch that was not cut."""

    number: int
    epoch: int
    is_takeover: bool
    """Whoever had it before has not given it back."""


def make_slices(batch_id: str, count: int) -> list[dict[str, Any]]:
    """The rows of a batch's slices, on which nobody has worked yet."""
    return [{"batch_id": batch_id, "number": 1 + number, "lease_until_ms": 0, "epoch": 0} for number in range(count)]


def lock_batch(connection: Connection, batch_id: str) -> tuple[State, int] | None:
    """State and epoch of the batch, which stay as they are until the transaction ends; None: there is no such batch."""
    row = connection.execute(_BATCH, {"sought": batch_id}).first()
    return None if row is None else (State(row.state), row.epoch)


def tell_holder(connection: Connection, batch_id: str, lease: Lease | None, epoch: int) -> None:
    """Write into the batch's row who has it; None: it may be taken."""
    holder, until_ms = lease or (None, 0)
    connection.execute(_TELL_HOLDER, {"sought": batch_id, "by": holder, "until": until_ms, "at_epoch": epoch})


def claim_slices(
    connection: Connection, batch: Batch, lease: Lease, now_ms: int, most: int = 1, besides: Collection[int] = ()
) -> list[ClaimedSlice]:
    """The first free slices, leased; without `besides`. None if the batch has left the state in which it was found.

    Those of `besides` that are free stay so for others.
    """
    found = lock_batch(connection, batch.id)
    if found is None or found[0] is not batch.state:
        return []
    of_batch = {"sought": batch.id}
    # One more, to know whether there is one.
    free = connection.execute(_FREE, of_batch | {"now": now_ms, "most": most + 1 + len(besides)}).all()
    wanted = [row for row in free if row.number not in besides][:most]
    taken = [ClaimedSlice(row.number, row.epoch + 1, row.holder is not None) for row in wanted]
    if taken:
        chosen = [one.number for one in taken]
        connection.execute(_TAKE, of_batch | {"chosen": chosen, "mine": lease.holder, "until": lease.lease_until_ms})
    mark = None
    if len(free) == len(taken):
        mark = Lease(NONE_FREE, connection.scalar(_FIRST_END, of_batch) or 0)
    tell_holder(connection, batch.id, mark, max(1, found[1]))
    return taken
