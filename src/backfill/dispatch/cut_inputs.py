"""Indexes of batches that were cut, and which lines each slice has: made out once for all turns on a batch's slices."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from backfill.batch import Batch, Outcome
from backfill.errors import StoreCorrupt
from backfill.index import LineIndex
from backfill.plan import cut_lines
from backfill.store import Blobs, index_key

if TYPE_CHECKING:
    from array import array

__all__ = ["CutInput", "CutInputs", "read_index"]


@dataclass(frozen=True)
class CutInput:
    """What a turn on a slice needs of the whole batch; kept for as long as one of them keeps it."""

    index: LineIndex
    slices: Sequence["array[int]"]
    """The lines of each."""

    def mask(self, slice_number: int, outcomes: bytearray) -> bytearray:
        """The outcomes of the slice's own lines; those of all others pass for refused, so that nobody sends them."""
        lines = self.slices[slice_number - 1]
        masked = bytearray([Outcome.REFUSED]) * len(outcomes)
        for line in lines:
            masked[line] = outcomes[line]
        return masked


class CutInputs:
    """Those that are in use. Blocks on disk: call it in worker threads, several at once if need be."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._inputs: WeakValueDictionary[str, CutInput] = WeakValueDictionary()

    def find(self, batch: Batch) -> CutInput:
        """The index of a batch and its slices; raises StoreUnavailable, StoreCorrupt, NotFound."""
        # One at a time: two slices of a batch are often opened together.
        with self._lock:
            found = self._inputs.get(batch.id)
            if found is None:
                index = read_index(self._blobs, batch)
                found = self._inputs[batch.id] = CutInput(index, cut_lines(index, batch.slices))
            return found


def read_index(blobs: Blobs, batch: Batch) -> LineIndex:
    """The index of a batch's input; raises StoreUnavailable, StoreCorrupt, NotFound. Blocks on disk."""
    index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    if len(index) != batch.counts.total:
        message = f"The index of file {batch.input_file_id} has {len(index)} lines, its row {batch.counts.total}."
        raise StoreCorrupt(message)
    return index
