"""Slices of large batches: each has a lease and an epoch of its own, as a batch has that was not cut.

While slices of a batch are worked on, its own row says only whether one is free: `NONE_FREE` stands there for a holder
until the first of the leases that are held is over. That is a hint that a claim puts right, and costs it a look when it
is wrong; what counts are the rows of the slices. Whoever changes one has the row of its batch locked before: of two who
give back the last slices at the same time, one sees that nothing is left.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select, update

from backfill.batch import Batch, State
from backfill.store.metadata import Metadata
from backfill.store.rows import encode_values
from backfill.store.schema import batches, slices
from backfill.store.slice_claims import NONE_FREE, ClaimedSlice, Lease, claim_slices, lock_batch, tell_holder

__all__ = ["Slices"]

_OF_BATCH = slices.c.batch_id == bindparam("sought")
_IS_THE_TURN = and_(_OF_BATCH, slices.c.number == bindparam("in_number"), slices.c.epoch == bindparam("at_epoch"))
_IS_HELD = and_(slices.c.holder.is_not(None), slices.c.lease_until_ms >= bindparam("now"))
_SHOW_FREE = (
    update(batches).where(batches.c.id == bindparam("sought"), batches.c.holder == NONE_FREE).values(holder=None)
)
_GIVE_BACK = update(slices).where(_IS_THE_TURN).values(holder=None)
_LET_RUN_OUT = update(slices).where(_IS_THE_TURN).values(lease_until_ms=0)
_RENEW = (
    update(slices)
    .where(_OF_BATCH, slices.c.number == bindparam("in_number"), slices.c.holder == bindparam("mine"))
    .values(lease_until_ms=bindparam("until"))
)
_COUNT_DRAINED = select(func.count()).where(_OF_BATCH, slices.c.drained_as.is_not(None))
_NOTE_DRAINED = update(slices).where(_IS_THE_TURN, slices.c.drained_as.is_(None)).values(drained_as=bindparam("place"))
_ANY_LEFT = select(slices.c.number).where(_OF_BATCH, slices.c.drained_as.is_(None)).limit(1)
_EPOCHS = (
    select(slices.c.batch_id, slices.c.number, slices.c.epoch)
    .join(batches, batches.c.id == slices.c.batch_id)
    .where(batches.c.id.in_(bindparam("sought", expanding=True)), batches.c.state == bindparam("in_state"))
)
_BUSY = select(slices.c.batch_id).where(slices.c.batch_id.in_(bindparam("sought", expanding=True)), _IS_HELD).distinct()
_ANY_HELD = select(slices.c.number).where(_OF_BATCH, _IS_HELD).limit(1)
_NAMED = select(slices).where(_OF_BATCH, slices.c.holder.is_not(None)).order_by(slices.c.number)
_FENCE_OUT = update(slices).where(_OF_BATCH, slices.c.holder.is_not(None)).values(epoch=slices.c.epoch + 1)
_DRAINED = select(slices.c.number).where(_OF_BATCH, slices.c.drained_as.is_not(None)).order_by(slices.c.drained_as)


class Slices:
    """The rows of one data directory."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._database = metadata.database

    async def claim(
        self, batch: Batch, lease: Lease, now_ms: int, most: int, besides: Collection[int] = ()
    ) -> list[ClaimedSlice]:
        """Lease up to `most` of the slices that are free, without `besides`; none if the batch is in another state."""

        def claim(connection: Connection) -> list[ClaimedSlice]:
            return claim_slices(connection, batch, lease, now_ms, most, besides)

        return await self._database.write(claim, alone=False)

    async def renew(self, holder: str, held: Collection[tuple[str, int]], until_ms: int) -> None:
        """Push the end of those leases, by batch and number, of one holder."""
        each = {"mine": holder, "until": until_ms}
        # In one order, so that no two transactions wait for each other.
        rows = [each | {"sought": batch_id, "in_number": number} for batch_id, number in sorted(held)]
        await self._database.write(lambda connection: connection.execute(_RENEW, rows), alone=False)

    async def find_epochs(self, state: State, batch_ids: Collection[str]) -> Mapping[tuple[str, int], int]:
        """Batch and number -> epoch, of the slices of those of the batches that are in the state."""
        rows = await self._database.read(_EPOCHS, {"sought": [*batch_ids], "in_state": state})
        return {(row.batch_id, row.number): row.epoch for row in rows}

    async def give_back(self, batch_id: str, number: int, epoch: int, *, is_fenced: bool) -> bool:
        """Have the slice be free at once; False, and nothing is written, if somebody else has it.

        Without `is_fenced` the name of the holder stays: one before him may still write.
        """

        def free(connection: Connection) -> bool:
            lock_batch(connection, batch_id)
            turn = {"sought": batch_id, "in_number": number, "at_epoch": epoch}
            if not connection.execute(_GIVE_BACK if is_fenced else _LET_RUN_OUT, turn).rowcount:
                return False
            connection.execute(_SHOW_FREE, {"sought": batch_id})
            return True

        return await self._database.write(free, alone=False)

    async def drain(
        self, batch_id: str, number: int, epoch: int, when_last: Mapping[State, Mapping[str, Any]]
    ) -> bool | None:
        """Give a slice back of which nothing is left. Done twice, it is done once.

        Whether it was the last one: then the batch's row gets what `when_last` says for the state in which it is. None,
        and nothing is written, if somebody else has the slice.
        """

        def drain(connection: Connection) -> bool | None:
            found = lock_batch(connection, batch_id)
            of_batch = {"sought": batch_id}
            turn = of_batch | {"in_number": number, "at_epoch": epoch}
            if found is None or not connection.execute(_GIVE_BACK, turn).rowcount:
                return None
            place = (connection.scalar(_COUNT_DRAINED, of_batch) or 0) + 1
            connection.execute(_NOTE_DRAINED, turn | {"place": place})
            is_last = connection.execute(_ANY_LEFT, of_batch).first() is None
            if is_last and found[0] in when_last:
                self._change_batch(connection, batch_id, when_last[found[0]])
            elif found[0].is_closing:
                connection.execute(_SHOW_FREE, of_batch)
            return is_last

        return await self._database.write(drain, alone=False)

    async def fail(
        self,
        batch_id: str,
        number: int,
        epoch: int,
        failed: Mapping[State, Mapping[str, Any]],
        *,
        is_fenced: bool,
    ) -> bool:
        """Have the whole batch fail for the holder of a slice, who gives it back; `failed` as `when_last` of `drain`.

        False, and nothing is written, if the batch is in another state, or somebody else has the slice.
        """

        def fail(connection: Connection) -> bool:
            found = lock_batch(connection, batch_id)
            turn = {"sought": batch_id, "in_number": number, "at_epoch": epoch}
            if found is None or found[0] not in failed:
                return False
            if not connection.execute(_GIVE_BACK if is_fenced else _LET_RUN_OUT, turn).rowcount:
                return False
            self._change_batch(connection, batch_id, failed[found[0]])
            return True

        return await self._database.write(fail, alone=False)

    async def claim_closing(self, batch: Batch, lease: Lease, now_ms: int) -> list[tuple[int, int]] | None:
        """Lease a batch to be closed: the slices that have to be fenced before, each with the epoch to fence it at.

        None if somebody else was first, or holds a slice of it.
        """

        def claim(connection: Connection) -> list[tuple[int, int]] | None:
            of_batch = {"sought": batch.id}
            if lock_batch(connection, batch.id) != (batch.state, batch.epoch):
                return None
            if connection.execute(_ANY_HELD, of_batch | {"now": now_ms}).first() is not None:
                return None
            connection.execute(_FENCE_OUT, of_batch)
            tell_holder(connection, batch.id, lease, batch.epoch + 1)
            return [(row.number, row.epoch) for row in connection.execute(_NAMED, of_batch)]

        return await self._database.write(claim, alone=False)

    async def note_fenced(self, batch_id: str, fenced: Collection[tuple[int, int]]) -> None:
        """Of these slices, each with its epoch, nobody writes anything any more that counts."""
        rows = [{"sought": batch_id, "in_number": number, "at_epoch": epoch} for number, epoch in fenced]
        await self._database.write(lambda connection: connection.execute(_GIVE_BACK, rows), alone=False)

    async def find_busy(self, batch_ids: Collection[str], now_ms: int) -> set[str]:
        """Those of the batches of which somebody holds a slice."""
        rows = await self._database.read(_BUSY, {"sought": [*batch_ids], "now": now_ms})
        return {row.batch_id for row in rows}

    async def list_drained(self, batch_id: str) -> Sequence[int]:
        """The slices of which nothing is left, in the order in which they were drained."""
        return [row.number for row in await self._database.find(_DRAINED, {"sought": batch_id})]

    def _change_batch(self, connection: Connection, batch_id: str, values: Mapping[str, Any]) -> None:
        change = update(batches).where(batches.c.id == batch_id).values(encode_values({**values}))
        connection.execute(change)
        self._metadata.note_changed(batch_id, values)
