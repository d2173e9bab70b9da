"""With what messages to an owner's own addresses are signed: a secret of each owner's, and no other's."""

import base64
import hashlib
import hmac

from backfill.store import Metadata

__all__ = ["WebhookSecrets"]

_KEY = "webhook_signing_key"


class WebhookSecrets:
    """Made of one random key of the data directory, so that nothing is stored for an owner."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._key: bytes | None = None

    async def find(self, owner: str) -> str:
        """The owner's secret in the form of Standard Webhooks, the same ever after; raises StoreUnavailable."""
        if self._key is None:
            self._key = await self._metadata.get_secret(_KEY)
        secret = hmac.digest(self._key, owner.encode(), hashlib.sha256)
        return f"whsec_{base64.b64encode(secret).decode()}"
