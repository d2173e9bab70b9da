"""Counts of batches that are not final yet, for whoever asks: folds that are kept and read on."""

import asyncio
from collections import OrderedDict

from backfill.batch import Batch, Counts
from backfill.journal.fold import Fold
from backfill.store import LocalBlobs

__all__ = ["Progress"]

_FOLDS_KEPT = 32


class Progress:
    """Answers "how far is it?" from the journal; a row's own counts once the batch is final."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self._blobs = blobs
        self._folds: OrderedDict[str, tuple[Fold, asyncio.Lock]] = OrderedDict()

    async def count(self, batch: Batch) -> Counts:
        """The counts of a batch now."""
        if batch.state.is_final:
            self._forget(batch.id)
            return batch.counts
        if batch.epoch == 0:
            return batch.counts
        fold, lock = self._fold_of(batch)
        async with lock:
            await asyncio.to_thread(fold.refresh)
            counts = fold.counts
            if batch.id not in self._folds:
                fold.close()
        return counts

    def close(self) -> None:
        """Give all descriptors back."""
        for batch_id in list(self._folds):
            self._forget(batch_id)

    def _fold_of(self, batch: Batch) -> tuple[Fold, asyncio.Lock]:
        kept = self._folds.get(batch.id)
        if kept is None:
            kept = self._folds[batch.id] = (Fold(self._blobs, batch.id, batch.counts.total), asyncio.Lock())
            if len(self._folds) > _FOLDS_KEPT:
                self._forget(next(iter(self._folds)))
        self._folds.move_to_end(batch.id)
        return kept

    def _forget(self, batch_id: str) -> None:
        kept = self._folds.pop(batch_id, None)
        # One that is being read now is closed by its reader.
        if kept is not None and not kept[1].locked():
            kept[0].close()
