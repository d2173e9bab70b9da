"""How far batches are that are not final yet, for whoever asks: folds that are kept and read on."""

import asyncio
from collections import OrderedDict

from backfill.batch import Batch, Counts, Standing
from backfill.errors import NotFound, StoreCorrupt
from backfill.index import LineIndex
from backfill.journal.fold import Fold
from backfill.journal.line_models import LineModels
from backfill.store import Blobs, index_key

__all__ = ["Progress"]

_FOLDS_KEPT = 32


class _KeptFold:
    """A fold that is read on whenever somebody asks, one at a time."""

    def __init__(self, blobs: Blobs, batch: Batch) -> None:
        self.lock = asyncio.Lock()
        self._blobs = blobs
        self._batch = batch
        self._fold: Fold | None = None

    def read(self) -> Standing:
        """What the journal says now. Blocks on disk: call it in a worker thread."""
        if self._fold is None:
            batch = self._batch
            self._fold = Fold(self._blobs, batch.id, batch.counts.total, _read_models(self._blobs, batch))
        self._fold.refresh()
        return Standing(self._fold.counts, self._fold.usage)

    def close(self) -> None:
        """Give its descriptors back."""
        if self._fold is not None:
            self._fold.close()


class Progress:
    """Answers "how far is it?" from the journal; from the row once the batch is final."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._folds: OrderedDict[str, _KeptFold] = OrderedDict()

    async def measure(self, batch: Batch) -> Standing:
        """Counts and usage of a batch now."""
        if batch.state.is_final:
            self._forget(batch.id)
            return Standing(batch.counts, batch.used)
        if batch.epoch == 0:
            return Standing(batch.counts)
        fold = self._fold_of(batch)
        async with fold.lock:
            standing = await asyncio.to_thread(fold.read)
            if batch.id not in self._folds:
                fold.close()
        return standing

    async def count(self, batch: Batch) -> Counts:
        """The counts of a batch now."""
        return (await self.measure(batch)).counts

    def close(self) -> None:
        """Give all descriptors back."""
        for batch_id in list(self._folds):
            self._forget(batch_id)

    def _fold_of(self, batch: Batch) -> _KeptFold:
        kept = self._folds.get(batch.id)
        if kept is None:
            kept = self._folds[batch.id] = _KeptFold(self._blobs, batch)
            if len(self._folds) > _FOLDS_KEPT:
                self._forget(next(iter(self._folds)))
        self._folds.move_to_end(batch.id)
        return kept

    def _forget(self, batch_id: str) -> None:
        kept = self._folds.pop(batch_id, None)
        # One that is being read now is closed by its reader.
        if kept is not None and not kept.lock.locked():
            kept.close()


def _read_models(blobs: Blobs, batch: Batch) -> LineModels:
    """Which model each line is for; that of the batch for all, while the index cannot be read."""
    try:
        index = LineIndex.decode(blobs.read(index_key(batch.input_file_id)))
    except (NotFound, StoreCorrupt):
        return LineModels.unknown(batch.counts.total, batch.model_id or "")
    return LineModels.of_batch(batch, index)
