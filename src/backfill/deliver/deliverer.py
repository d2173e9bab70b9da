"""The loop: whenever a batch has nothing more to send, gather its answers and close it in one write."""

import asyncio

import structlog

from backfill.batch import Batch
from backfill.deliver.gather import gather
from backfill.errors import BackfillError
from backfill.store import LocalBlobs
from backfill.turns import Turns, now_ms

__all__ = ["Deliverer"]

_TICK_S = 1.0
_PAUSE_AFTER_FAILURE_S = 5.0
_log = structlog.get_logger(__name__)


class Deliverer:
    """Closes batches until stopped. A delivery that was cut off is simply done again."""

    def __init__(self, turns: Turns, blobs: LocalBlobs) -> None:
        self._turns = turns
        self._blobs = blobs
        self._bell = turns.subscribe()
        self._stopped = False
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Work until `stop` is called; a delivery under way is finished first."""
        while not self._stopped:
            try:
                for batch in await self._turns.find_closable():
                    await self._deliver(batch)
            except BackfillError as error:
                _log.error("delivery waits for the metadata", reason=error.message)
            await self._bell.wait(_TICK_S)

    def stop(self) -> None:
        """Begin no other delivery."""
        self._stopped = True
        self._bell.ring()

    async def _deliver(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        if self._stopped or self._not_before.get(batch.id, 0.0) > loop.time():
            return
        try:
            gathered = await asyncio.to_thread(gather, self._blobs, batch, now_ms())
            await self._turns.close(batch, gathered.counts, gathered.output, gathered.error)
        except BackfillError as error:
            self._not_before[batch.id] = loop.time() + _PAUSE_AFTER_FAILURE_S
            _log.error("batch cannot be delivered yet", batch=batch.id, reason=error.message)
            return
        self._not_before.pop(batch.id, None)
        counts = gathered.counts
        _log.info("batch ended", batch=batch.id, answered=counts.answered, failed=counts.failed)
