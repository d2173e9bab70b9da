"""How turns are taken: which batches wait, which of them are chosen, and who has them from then on."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from backfill.batch import Batch, State
from backfill.errors import StoreUnavailable
from backfill.store import Lease, Metadata, Wanted
from backfill.turns.choice import Choice

__all__ = ["Taking", "Turn"]


class Turn(NamedTuple):
    """A lease on the unfinished lines of one batch. The epoch grows with every turn and fences old holders out."""

    batch: Batch
    epoch: int
    is_takeover: bool = False
    """Whoever had the turn before has not given it back: he may write on, until a new segment fences him out."""


class Taking:
    """For one holder; remembers whose turn it was."""

    def __init__(self, metadata: Metadata, holder: str, lease_ms: int) -> None:
        self._metadata = metadata
        self._holder = holder
        self._lease_ms = lease_ms
        self._last_owner = ""
        self._deadlines_first = True

    async def take(self, room: int, now: int, begin_choice: Callable[[], Choice]) -> list[Turn]:
        """Up to `room` turns, on batches of which nobody holds one at that time; `begin_choice` says which."""
        wanted = Wanted(State.IN_PROGRESS, now, self._last_owner, begin_choice().owners_to_see, room)
        take = self._take_at_once if self._metadata.database.many_writers else self._take_one_by_one
        return await take(wanted, begin_choice)

    async def _take_at_once(self, wanted: Wanted, begin_choice: Callable[[], Choice]) -> list[Turn]:
        """Find, choose and lease in one transaction, in which other processes pass over what is found."""
        choice = begin_choice()

        def choose(due_first: Sequence[Batch], in_round: Sequence[Batch]) -> list[Batch]:
            # Anew: the transaction may be carried out twice.
            nonlocal choice
            choice = begin_choice()
            return choice.choose(due_first, in_round, deadlines_first=self._deadlines_first)

        lease = Lease(self._holder, wanted.free_at_ms + self._lease_ms)
        taken = await self._metadata.claim(wanted, choose, lease)
        self._note_choice(choice)
        # Their rows as they were found tell who had them before.
        return [Turn(batch, batch.epoch, is_takeover=batch.holder is not None) for batch in taken]

    async def _take_one_by_one(self, wanted: Wanted, begin_choice: Callable[[], Choice]) -> list[Turn]:
        choice = begin_choice()
        due_first, in_round = await self._metadata.find_next(wanted)
        free = choice.choose(due_first, in_round, deadlines_first=self._deadlines_first)
        self._note_choice(choice)
        until_ms = wanted.free_at_ms + self._lease_ms
        leased = await asyncio.gather(*(self.lease(batch, until_ms) for batch in free), return_exceptions=True)
        taken = [turn for turn in leased if isinstance(turn, Turn)]
        for failure in leased:
            # With those that are taken nobody else would begin.
            if isinstance(failure, BaseException) and not (taken and isinstance(failure, StoreUnavailable)):
                raise failure
        return taken

    def _note_choice(self, choice: Choice) -> None:
        self._last_owner = choice.last_owner or self._last_owner
        self._deadlines_first = not self._deadlines_first

    async def lease(self, batch: Batch, until_ms: int) -> Turn | None:
        """A turn on the batch; None if somebody else was first."""
        lease = {"holder": self._holder, "lease_until_ms": until_ms, "epoch": (epoch := batch.epoch + 1)}
        if not await self._metadata.change_batch(batch.id, state=batch.state, epoch=batch.epoch, values=lease):
            return None
        leased = msgspec.structs.replace(batch, epoch=epoch, holder=self._holder)
        return Turn(leased, epoch, is_takeover=batch.holder is not None)
