"""Tell the outside that a batch has ended: a webhook, signed as the Standard Webhooks specification says.

That it is due stands in the batch's row since the write that made the batch final, so none is lost by a crash; one that
was under way is sent again, under the same id. Nothing waits for a receiver but its own message.
"""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime

import msgspec
import structlog

from backfill.batch import Batch, Dialect, State
from backfill.config import WebhooksConfig
from backfill.deliver.receivers import Receiver
from backfill.errors import BackfillError
from backfill.turns import Announcements, Bell, Setbacks
from backfill.wire import openai, together

__all__ = ["WebhookSender", "make_message"]

_TICK_S = 1.0
_BACKOFF_FACTOR = 4.0
# More would not fit into a float, and no wait is as long.
_EXPONENT_MAX = 64
_GONE = 410
_TYPES = {
    State.COMPLETED: "batch.completed",
    State.FAILED: "batch.failed",
    State.EXPIRED: "batch.expired",
    State.CANCELLED: "batch.cancelled",
}
_RENDERERS = {Dialect.TOGETHER: together.render_batch, Dialect.OPENAI: openai.render_batch}
_log = structlog.get_logger(__name__)


def make_message(batch: Batch) -> bytes:
    """What the receiver gets: the same bytes whenever it is made."""
    ended_at_s = (batch.ended_at_ms or 0) / 1000
    ended_at = datetime.fromtimestamp(ended_at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = _RENDERERS[batch.dialect](batch, batch.counts)
    return msgspec.json.encode({"type": _TYPES[batch.state], "timestamp": ended_at, "data": data})


class WebhookSender:
    """Sends what is due to one kind of address until stopped."""

    def __init__(
        self,
        announcements: Announcements,
        receiver: Receiver,
        config: WebhooksConfig,
        setbacks: Setbacks,
        bell: Bell | None = None,
    ) -> None:
        """`bell` rings when there may be something to tell; without it that is looked for once a second."""
        self._announcements = announcements
        self._receiver = receiver
        self._config = config
        self._setbacks = setbacks
        self._bell = bell or Bell()
        self._name = f"{announcements.kind}s"
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret
        self._stopped = False
        self._under_way: dict[str, asyncio.Task[None]] = {}
        """Batch -> who tells of it."""
        self._owners: Counter[str] = Counter()
        """How many of these are whose."""

    async def run(self) -> None:
        """Work until `stop` is called; what is under way then is sent again by the next process."""
        if not self._receiver.is_there:
            return
        try:
            while not self._stopped:
                try:
                    await self._begin_due()
                    self._setbacks.forget(self._name)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find better
                    self._setbacks.note(self._name, error, "webhooks wait for the metadata")
                await self._bell.wait(_TICK_S)
        finally:
            under_way = list(self._under_way.values())
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            await self._receiver.close()

    def stop(self) -> None:
        """Send no more, and wait for no receiver."""
        self._stopped = True
        self._bell.ring()

    async def _begin_due(self) -> None:
        receiver, running = self._receiver, len(self._under_way)
        if running >= receiver.at_once:
            return
        busy = [owner for owner, count in self._owners.items() if count >= receiver.at_once_per_owner]
        # What is under way is due until it is noted down.
        due = await self._announcements.find_due(receiver.at_once, busy)
        for batch in due:
            if batch.id in self._under_way:
                continue
            if self._owners[batch.owner] >= receiver.at_once_per_owner:
                # The next look passes over this owner, and finds those behind him.
                self._bell.ring()
            elif len(self._under_way) < receiver.at_once:
                self._begin(batch)

    def _begin(self, batch: Batch) -> None:
        task = asyncio.create_task(self._announce(batch), name=f"webhook {batch.id}")
        self._under_way[batch.id] = task
        self._owners[batch.owner] += 1

        def forget(_task: "asyncio.Task[None]") -> None:
            del self._under_way[batch.id]
            self._owners[batch.owner] -= 1
            if not self._owners[batch.owner]:
                del self._owners[batch.owner]
            self._bell.ring()

        task.add_done_callback(forget)

    async def _announce(self, batch: Batch) -> None:
        again_in_s = await self._try(batch)
        key = f"{self._announcements.kind} {batch.id}"
        while True:
            try:
                await self._announcements.note(batch, again_in_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, a receiver is not to hear the same meanwhile
                # Should this process end before that works, it is sent again, and receivers know it by its id.
                await asyncio.sleep(self._setbacks.note(key, error, "webhook cannot be noted down", batch=batch.id))
            else:
                self._setbacks.forget(key)
                return

    async def _try(self, batch: Batch) -> float | None:
        """Send it; gives the seconds until it is to be sent again, None if it is not."""
        tries = self._announcements.count_tries(batch) + 1
        failure = await self._send(batch)
        if failure is None:
            return None
        is_last = failure == f"HTTP {_GONE}" or tries >= self._config.tries
        again_in_s = None if is_last else self._find_wait(tries)
        host = self._receiver.find_host(batch)
        _log.warning("webhook failed", batch=batch.id, host=host, reason=failure, tries=tries, again_in_s=again_in_s)
        return again_in_s

    async def _send(self, batch: Batch) -> str | None:
        """Send one message; gives why that failed, None if it did not."""
        message_id, now = f"msg_{batch.id}", datetime.now(UTC)
        try:
            content = make_message(batch)
            headers = {
                "content-type": "application/json",
                "user-agent": "backfill",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": await self._receiver.sign(batch, message_id, now, content),
            }
            status = await self._receiver.post(batch, content, headers)
        except BackfillError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this message a try and no other one
            return type(error).__name__
        return None if 200 <= status < 300 else f"HTTP {status}"

    def _find_wait(self, tries: int) -> float:
        wait_s = min(
            self._config.backoff_s * _BACKOFF_FACTOR ** min(tries - 1, _EXPONENT_MAX), self._config.backoff_max_s
        )
        return round(wait_s * self._dice.uniform(0.75, 1.25), 3)
