"""Tell the outside that a batch has ended: a webhook, signed as the Standard Webhooks specification says.

That it is due stands in the batch's row since the write that made the batch final, so none is lost by a crash; one that
was under way is sent again, under the same id. Nothing waits for a receiver but this loop.
"""

import asyncio
import random
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from standardwebhooks import Webhook

from backfill.batch import Batch, Dialect, State
from backfill.config import WebhooksConfig
from backfill.errors import BackfillError
from backfill.turns import WEBHOOKS, Turns
from backfill.wire import openai, together

__all__ = ["WebhookSender", "make_message"]

_TICK_S = 1.0
_LOOP = "webhooks"
_SENT_AT_ONCE = 16
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
    """Sends what is due until stopped."""

    def __init__(self, turns: Turns, config: WebhooksConfig) -> None:
        self._turns = turns
        self._config = config
        self._bell = turns.subscribe()
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret
        self._signer = Webhook(config.secret.get_secret_value()) if config.secret else None
        self._stopped = False
        self._unnoted: dict[str, tuple[int, float | None]] = {}
        """Batch -> the try that was made and when the next one is due, where that could not be written down."""
        self._sending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Work until `stop` is called; what is under way then is sent again by the next process."""
        if not self._config.url or self._signer is None:
            return
        timeout = aiohttp.ClientTimeout(total=self._config.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self._stopped:
                self._sending = asyncio.create_task(self._send_due(session, self._signer))
                try:
                    await self._sending
                    self._turns.setbacks.forget(_LOOP)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find better
                    self._turns.setbacks.note(_LOOP, error, "webhooks wait for the metadata")
                except asyncio.CancelledError:
                    if not self._stopped:
                        raise
                await self._bell.wait(_TICK_S)

    def stop(self) -> None:
        """Send no more, and wait for no receiver."""
        self._stopped = True
        if self._sending is not None:
            self._sending.cancel()
        self._bell.ring()

    async def _send_due(self, session: aiohttp.ClientSession, signer: Webhook) -> None:
        if not await self._turns.duties.has(WEBHOOKS):
            return
        due = await self._turns.find_unannounced(_SENT_AT_ONCE)
        # A write that seemed to fail may have been made all the same.
        for batch_id in self._unnoted.keys() - {batch.id for batch in due}:
            self._forget(batch_id)
        async with asyncio.TaskGroup() as group:
            for batch in due:
                group.create_task(self._announce(session, signer, batch))

    async def _announce(self, session: aiohttp.ClientSession, signer: Webhook, batch: Batch) -> None:
        tries = batch.webhook_tries + 1
        # While the database takes nothing, a receiver is not to hear the same once a second.
        made, again_in_s = self._unnoted.get(batch.id, (0, None))
        if made != tries:
            again_in_s = await self._try(session, signer, batch, tries)
            self._unnoted[batch.id] = (tries, again_in_s)
        try:
            await self._turns.note_announcement(batch, again_in_s)
            self._forget(batch.id)
        except BackfillError as error:
            # It stays due; should this process end, it is sent again, and receivers know it by its id.
            setbacks = self._turns.setbacks
            setbacks.note(f"webhook {batch.id}", error, "webhook cannot be noted down", batch=batch.id)

    def _forget(self, batch_id: str) -> None:
        del self._unnoted[batch_id]
        self._turns.setbacks.forget(f"webhook {batch_id}")

    async def _try(self, session: aiohttp.ClientSession, signer: Webhook, batch: Batch, tries: int) -> float | None:
        """Send it; gives the seconds until it is to be sent again, None if it is not."""
        failure = await self._send(session, signer, batch)
        again_in_s = None
        if failure is not None:
            is_last = failure == f"HTTP {_GONE}" or tries >= self._config.tries
            again_in_s = None if is_last else self._find_wait(tries)
            # The host alone: the rest of an address may be as secret as a password.
            where = urlsplit(self._config.url).hostname
            _log.warning(
                "webhook failed", batch=batch.id, host=where, reason=failure, tries=tries, again_in_s=again_in_s
            )
        return again_in_s

    async def _send(self, session: aiohttp.ClientSession, signer: Webhook, batch: Batch) -> str | None:
        """Send one message; gives why that failed, None if it did not."""
        message_id, now = f"msg_{batch.id}", datetime.now(UTC)
        try:
            content = make_message(batch)
            headers = {
                "content-type": "application/json",
                "user-agent": "backfill",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": signer.sign(message_id, now, content.decode()),
            }
            # A redirect would have the message sent where the operator did not say.
            async with session.post(self._config.url, data=content, headers=headers, allow_redirects=False) as response:
                return None if 200 <= response.status < 300 else f"HTTP {response.status}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this message a try and no other one
            return type(error).__name__

    def _find_wait(self, tries: int) -> float:
        wait_s = min(
            self._config.backoff_s * _BACKOFF_FACTOR ** min(tries - 1, _EXPONENT_MAX), self._config.backoff_max_s
        )
        return round(wait_s * self._dice.uniform(0.75, 1.25), 3)
