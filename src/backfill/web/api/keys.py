"""Who asks: an API key is let in or not, and stands for the owner of files and batches."""

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request

from backfill.errors import Unauthorized
from backfill.web.api.services import ServicesOf

__all__ = ["ANONYMOUS", "Owner", "identify"]

# In the form of a user id of Together's; owns everything as long as no keys are configured.
ANONYMOUS = "0" * 24


def identify(authorization: str | None, keys: tuple[str, ...]) -> str:
    """The owner that an Authorization header stands for; raises Unauthorized."""
    if not keys:
        return ANONYMOUS
    scheme, _, presented = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise Unauthorized("No API key was sent. Send it as: Authorization: Bearer <key>.", code="missing_api_key")
    digest = hashlib.sha256(presented.strip().encode("utf-8", "surrogateescape")).digest()
    # Digests are compared, and all of them: how long it takes tells nothing about a key or its length.
    matches = [hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in keys]
    if not any(matches):
        raise Unauthorized("The API key is not known to this server.")
    return digest.hex()[:24]


async def _require_owner(request: Request, services: ServicesOf) -> str:
    keys = tuple(key.get_secret_value() for key in services.config.server.api_keys)
    return identify(request.headers.get("authorization"), keys)


Owner = Annotated[str, Depends(_require_owner)]
