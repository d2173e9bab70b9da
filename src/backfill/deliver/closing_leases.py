"""Who closes a batch, of several processes: leases on batches of which no line is sent any more.

A batch whose last holder has not given it back may still be written to by him. Its journal is fenced before anything is
gathered, so that what was gathered is what the journal says for ever. Of a batch that was cut each such slice is.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from backfill.batch import Batch
from backfill.errors import StoreUnavailable
from backfill.journal import fence
from backfill.store import Blobs
from backfill.turns import Turn, Turns

__all__ = ["ClosingLeases"]

_RENEWALS_A_LEASE = 3


class ClosingLeases:
    """Those of this process; one that is alone needs none."""

    def __init__(self, turns: Turns, blobs: Blobs) -> None:
        self._turns = turns
        self._blobs = blobs
        self._held: dict[str, Turn] = {}

    @asynccontextmanager
    async def holding(self, found: Sequence[Batch]) -> AsyncIterator[list[Batch]]:
        """Those of the batches that are this process's to close while the block lasts, as their rows are now."""
        if self._turns.duties.is_alone:
            yield [*found]
            return
        turns = await self._turns.take_closable(found)
        self._held |= {turn.batch.id: turn for turn in turns}
        fenced: set[str] = set()
        try:
            for turn in turns:
                fenced |= await self._fence(turn)
            yield [turn.batch for turn in turns if turn.batch.id in fenced]
        finally:
            await asyncio.gather(*(self._let_go(turn, is_fenced=turn.batch.id in fenced) for turn in turns))

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        """Renew what is held while the block lasts."""
        if self._turns.duties.is_alone:
            yield
            return
        renewing = asyncio.create_task(self._renew(), name="renew leases of deliveries")
        try:
            yield
        finally:
            renewing.cancel()

    def find_epoch(self, batch: Batch) -> int | None:
        """The epoch at which the batch is held; None: by nobody, as this process is alone."""
        return self._held[batch.id].epoch if batch.id in self._held else None

    async def _fence(self, turn: Turn) -> set[str]:
        """The id of the batch, if nobody writes to its journal any more, or what he writes does not count."""
        if not turn.is_takeover:
            return {turn.batch.id}
        batch = turn.batch
        journals = turn.overdue if batch.slices else [(0, turn.epoch)]
        try:
            for number, epoch in journals:
                await asyncio.to_thread(fence, self._blobs, batch.id, batch.counts.total, epoch, number)
            await self._turns.note_fenced(turn)
        except StoreUnavailable as error:
            self._turns.setbacks.note(turn.batch.id, error, "batch cannot be closed yet", batch=turn.batch.id)
            return set()
        return {turn.batch.id}

    async def _let_go(self, turn: Turn, *, is_fenced: bool) -> None:
        del self._held[turn.batch.id]
        # Of one that was closed nothing changes; of one that was not the lease runs out at the latest.
        with suppress(StoreUnavailable):
            await self._turns.let_go(turn, is_fenced=is_fenced)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._turns.lease_s / _RENEWALS_A_LEASE)
            with suppress(StoreUnavailable):
                await self._turns.renew([*self._held.values()])
