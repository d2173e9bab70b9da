"""How turns are taken: which batches wait, which of them are chosen, and who has them from then on."""

from collections.abc import Callable, Collection, Sequence

import msgspec

from backfill.batch import Batch, State
from backfill.store import Claimed, Lease, Metadata, Slices, Wanted
from backfill.turns.choice import Choice
from backfill.turns.turn import Turn

__all__ = ["Taking"]


class Taking:
    """For one holder; remembers whose turn it was."""

    def __init__(self, metadata: Metadata, slices: Slices, holder: str, lease_ms: int) -> None:
        self._metadata = metadata
        self._slices = slices
        self._holder = holder
        self._lease_ms = lease_ms
        self._last_owner = ""
        self._deadlines_first = True
        self._was_filled = False

    async def take(
        self,
        now: int,
        begin_choice: Callable[[], Choice],
        besides: Collection[str] = (),
        *,
        looks_first: bool = False,
    ) -> list[Turn]:
        """Turns, on batches of which nobody holds one at that time; `begin_choice` says which.

        `besides`: ids of batches that are not even looked at. `looks_first`: nothing is written, nor held up, unless
        there is something to be taken.
        """
        choice = begin_choice()
        wanted = Wanted(
            State.IN_PROGRESS,
            now,
            self._last_owner,
            choice.owners_to_see,
            choice.due_to_see,
            choice.most,
            tuple(besides),
            choice.not_due,
        )
        # Where one writes at a time, a look that finds nothing must keep nobody from writing. If there was something
        # for each place the last time there mostly is again, and to look twice would take as long as all the rest.
        is_likely = self._metadata.database.many_writers or self._was_filled
        if (looks_first or not is_likely) and not await self._sees_any(wanted, choice):
            self._was_filled = False
            return []
        turns = await self._take_at_once(wanted, begin_choice)
        self._was_filled = len(turns) == choice.most
        return turns

    async def _sees_any(self, wanted: Wanted, choice: Choice) -> bool:
        due_first, in_round = await self._metadata.find_next(wanted)
        if choice.choose(due_first, in_round, deadlines_first=self._deadlines_first):
            return True
        self._note_choice(choice)
        return False

    async def _take_at_once(self, wanted: Wanted, begin_choice: Callable[[], Choice]) -> list[Turn]:
        """Find, choose and lease in one transaction; where others write beside it, they pass over what is found."""
        choice = begin_choice()

        def choose(due_first: Sequence[Batch], in_round: Sequence[Batch]) -> list[Batch]:
            # Anew: the transaction may be carried out twice.
            nonlocal choice
            choice = begin_choice()
            return choice.choose(due_first, in_round, deadlines_first=self._deadlines_first)

        lease = Lease(self._holder, wanted.free_at_ms + self._lease_ms)
        taken = await self._metadata.claim(wanted, choose, lease)
        self._note_choice(choice)
        return [_make_turn(claimed) for claimed in taken]

    async def take_slices(
        self, batch: Batch, now: int, until_ms: int, most: int, besides: Collection[int] = ()
    ) -> list[Turn]:
        """Turns on up to `most` of the batch's free slices, without `besides`."""
        claimed = await self._slices.claim(batch, Lease(self._holder, until_ms), now, most, besides)
        return [_make_turn(Claimed(batch, one)) for one in claimed]

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


def _make_turn(claimed: Claimed) -> Turn:
    batch, (number, epoch, is_takeover) = claimed
    # Of a batch that was cut the row says nothing of a turn.
    leased = batch if number else msgspec.structs.replace(batch, epoch=epoch)
    return Turn(leased, epoch, is_takeover, number)
