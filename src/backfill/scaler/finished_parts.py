"""What of batches is done for some models while lines for others are left, as workers tell that left these to others.

A line that has finished stays so: it is remembered here when who told it has long ended, as replicas do that have
nothing more to do. A scaler that begins anew knows it again when the next worker has tried.
"""

from collections.abc import Callable, Mapping, Sequence

from backfill.dispatch.weighing import guess_needs
from backfill.plan import Need
from backfill.status import WorkerReport, WorkerStatus
from backfill.store import QueuedBatch, list_slices_left
from backfill.store.database import Database

__all__ = ["FinishedParts"]

# A batch that was not cut has one turn.
_WHOLE = (0,)


class FinishedParts:
    """Of those batches that wait."""

    def __init__(self, database: Database, serves: Callable[[WorkerReport, str, str], bool]) -> None:
        """`serves`: whether who tells this takes requests for a model at an endpoint."""
        self._database = database
        self._serves = serves
        self._parts: dict[str, dict[str, set[int]]] = {}
        """Batch -> model -> the turns on which there are no lines for it any more."""
        self._left: dict[str, set[str]] = {}
        """Batch -> models for which somebody has left lines. Where it names very many, its row does not tell of all."""

    async def learn(self, queue: Mapping[str, QueuedBatch], workers: Sequence[WorkerStatus]) -> None:
        """Take in what workers tell, and forget what does not wait any more; raises StoreUnavailable."""
        for worker in workers:
            for batch_id in worker.report.left_batches.keys() & queue.keys():
                self._left.setdefault(batch_id, set()).update(worker.report.left_batches[batch_id])
                self._note(queue[batch_id], worker.report)
        self._left = {batch_id: models for batch_id, models in self._left.items() if batch_id in queue}
        self._parts = {batch_id: parts for batch_id, parts in self._parts.items() if batch_id in queue}
        cut = [batch_id for batch_id in self._parts if queue[batch_id].slices]
        still = await list_slices_left(self._database, cut) if cut else {}
        for batch_id in cut:
            for numbers in self._parts[batch_id].values():
                numbers.intersection_update(still.get(batch_id, ()))

    def list_models(self, batch: QueuedBatch) -> dict[str, Need]:
        """What the lines for each model of a batch were taken to need; of those that only workers know nothing."""
        left = dict.fromkeys(self._left.get(batch.id, ()), Need())
        return left | {model or batch.model_id or "": need for model, need in guess_needs(batch).items()}

    def count_turns(self, batch_id: str, model: str, turns: int) -> int:
        """On how many of the turns that are left of a batch there may be lines for the model."""
        return max(0, turns - len(self._parts.get(batch_id, {}).get(model, ())))

    def _note(self, batch: QueuedBatch, report: WorkerReport) -> None:
        """It gives a turn back when all is done that it serves; of a batch that was cut it says which these were."""
        numbers = report.left_slices.get(batch.id, ()) if batch.slices else _WHOLE
        for model in self.list_models(batch):
            if self._serves(report, model, batch.endpoint):
                self._parts.setdefault(batch.id, {}).setdefault(model, set()).update(numbers)
