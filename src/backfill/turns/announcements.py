"""Ends of batches that one kind of address is to be told: which are due, and what came of telling them."""

from collections.abc import Callable, Collection

from backfill.batch import Batch
from backfill.store import Metadata, WebhookKind, find_webhooks
from backfill.turns.duties import WEBHOOKS, Duties
from backfill.turns.turns import now_ms

__all__ = ["Announcements"]


class Announcements:
    """That one is due stands in the batch's row since the write that ended it (`Turns`), so no crash loses any."""

    def __init__(
        self,
        metadata: Metadata,
        kind: WebhookKind,
        clock_ms: Callable[[], int] = now_ms,
        duties: Duties | None = None,
    ) -> None:
        """`duties` of a process that may not be alone: one at a time tells of ends."""
        self.kind = kind
        self._metadata = metadata
        self._clock_ms = clock_ms
        self._duties = duties or Duties()

    async def find_due(self, limit: int, besides_owners: Collection[str] = ()) -> list[Batch]:
        """Batches of whose end the address is to be told now, those of some owners left out; longest due first."""
        if not await self._duties.has(WEBHOOKS):
            return []
        return await find_webhooks(self._metadata.database, self.kind, self._clock_ms(), limit, besides_owners)

    def count_tries(self, batch: Batch) -> int:
        """How often that was tried so far."""
        return batch.webhook_tries if self.kind is WebhookKind.SERVER else batch.own_webhook_tries

    async def note(self, batch: Batch, again_in_s: float | None) -> None:
        """It was told, or that was tried; None: it is not tried again."""
        due_at_ms = None if again_in_s is None else self._clock_ms() + round(again_in_s * 1000)
        values = {f"{self.kind}_due_at_ms": due_at_ms, f"{self.kind}_tries": self.count_tries(batch) + 1}
        await self._metadata.change_batch(batch.id, values=values)
