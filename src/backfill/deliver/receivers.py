"""Who is told of the end of a batch, and with what it is signed for them: the server's address, and the batch's own."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from backfill.batch import Batch
from backfill.config import WebhooksConfig
from backfill.deliver.own_addresses import OwnAddresses
from backfill.network import read_link

__all__ = ["BatchReceiver", "Receiver", "ServerReceiver"]

_SENT_AT_ONCE = 16
# Of strangers, who may answer slowly or not at all: so many of one owner's leave places to the others.
_SENT_TO_BATCHES_AT_ONCE = 32
_SENT_OF_OWNER_AT_ONCE = 4


class Receiver(Protocol):
    """One kind of address."""

    at_once: int
    """How many messages are under way at most."""
    at_once_per_owner: int
    """How many of these are of one owner's batches."""

    @property
    def is_there(self) -> bool:
        """Whether there is anything to be told to it."""

    def find_host(self, batch: Batch) -> str | None:
        """All that may be said of the address: the rest may be as secret as a password."""

    async def sign(self, batch: Batch, message_id: str, now: datetime, content: bytes) -> str:
        """The signatures of a message, as the header has them."""

    async def post(self, batch: Batch, content: bytes, headers: dict[str, str]) -> int:
        """Send a message; gives the status of the answer. Raises what keeps it from going."""

    async def close(self) -> None:
        """Close every connection."""


class ServerReceiver:
    """The address of the settings: the operator's own, wherever it is."""

    at_once = at_once_per_owner = _SENT_AT_ONCE

    def __init__(self, config: WebhooksConfig) -> None:
        self._config = config
        self._signer = Webhook(config.secret.get_secret_value()) if config.secret else None
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_there(self) -> bool:
        """Whether the settings name one."""
        return bool(self._config.url) and self._signer is not None

    def find_host(self, _batch: Batch) -> str | None:
        """See `Receiver`."""
        return urlsplit(self._config.url).hostname

    async def sign(self, _batch: Batch, message_id: str, now: datetime, content: bytes) -> str:
        """With the secret of the settings."""
        assert self._signer is not None  # noqa: S101 - it is there
        return self._signer.sign(message_id, now, content.decode())

    async def post(self, _batch: Batch, content: bytes, headers: dict[str, str]) -> int:
        """See `Receiver`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._config.timeout_s))
        # A redirect would have the message sent where the operator did not say.
        async with self._session.post(
            self._config.url, data=content, headers=headers, allow_redirects=False
        ) as response:
            return response.status

    async def close(self) -> None:
        """See `Receiver`."""
        if self._session is not None:
            await self._session.close()


class BatchReceiver:
    """The addresses that batches name."""

    is_there = True
    at_once = _SENT_TO_BATCHES_AT_ONCE
    at_once_per_owner = _SENT_OF_OWNER_AT_ONCE

    def __init__(
        self, config: WebhooksConfig, addresses: OwnAddresses, find_secret: Callable[[str], Awaitable[str]]
    ) -> None:
        """`find_secret` gives that of an owner."""
        self._signer = Webhook(config.secret.get_secret_value()) if config.secret else None
        self._addresses = addresses
        self._find_secret = find_secret

    def find_host(self, batch: Batch) -> str | None:
        """See `Receiver`."""
        link = read_link(batch.own_webhook_url or "")
        return None if link is None else link.raw_host

    async def sign(self, batch: Batch, message_id: str, now: datetime, content: bytes) -> str:
        """With the owner's secret, and that of the settings if there is one: a receiver needs to know one of them."""
        signers = [Webhook(await self._find_secret(batch.owner)), *([self._signer] if self._signer else ())]
        return " ".join(signer.sign(message_id, now, content.decode()) for signer in signers)

    async def post(self, batch: Batch, content: bytes, headers: dict[str, str]) -> int:
        """See `Receiver`."""
        return await self._addresses.post(batch.own_webhook_url or "", content, headers)

    async def close(self) -> None:
        """See `Receiver`."""
        await self._addresses.close()
