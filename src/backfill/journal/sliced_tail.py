"""Following the journals of a batch that was cut: the lines of one slice after the other, as these are drained.

The order in which slices are drained is written down with each, in the transaction that ends its last turn, and never
changes; nor does the journal of a slice once it is drained. So here too the number of lines somebody has seen says for
ever where to go on.
"""

from collections.abc import Sequence

from backfill.journal.chain import Chain
from backfill.journal.tail import Tail
from backfill.store import Blobs

__all__ = ["SlicedTail"]


class SlicedTail(Tail):
    """As `Tail`, of the slices that are noted; for it to look at nothing else."""

    def __init__(self, blobs: Blobs, batch_id: str, lines: int, after: int = 0) -> None:
        super().__init__(blobs, batch_id, lines, after, is_shared=True)
        self._chain = Chain(blobs, batch_id)
        self._noted = 0

    def note_slices(self, numbers: Sequence[int]) -> None:
        """Those to which nothing more is written, in their order: what was noted before is the beginning of it."""
        new = numbers[self._noted :]
        self._noted += len(new)
        if not new:
            return
        counted = self._chain.look()
        places = {number: place for place, number in enumerate(new)}
        names = [name for name in counted if name.slice_number in places]
        names.sort(key=lambda name: (places[name.slice_number], name.epoch))
        self._seen = [(counted[name], counted[name].measure()) for name in names]
        self.begin_pass()
