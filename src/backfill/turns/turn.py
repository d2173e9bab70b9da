"""A turn: who works on which lines, until he gives them back or loses them."""

from typing import NamedTuple

from backfill.batch import Batch

__all__ = ["Turn"]


class Turn(NamedTuple):
    """A lease on the unfinished lines of one batch, or of a slice of it.

    The epoch grows with every turn on the same lines and fences old holders out.
    """

    batch: Batch
    epoch: int
    is_takeover: bool = False
    """Whoever had the turn before has not given it back: he may write on, until a new segment fences him out."""
    slice_number: int = 0
    """From 1; 0: all of the batch, as it was not cut or is to be closed."""
    overdue: tuple[tuple[int, int], ...] = ()
    """Slices of a batch to be closed whose holders have not given them back, and at which epochs to fence these out."""

    @property
    def name(self) -> str:
        """The batch's id; of a slice with its number."""
        return f"{self.batch.id}/{self.slice_number}" if self.slice_number else self.batch.id
