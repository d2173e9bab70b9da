"""The same request sent twice: known again by the key that the client gave it, or by what it asks for."""

import hashlib

import msgspec
from fastapi import Request

from backfill.errors import InvalidInput
from backfill.turns import Attempt

__all__ = ["read_attempt"]

KEY_LENGTH_MAX = 255
REPEAT_WINDOW_MS = 120_000


def read_attempt(request: Request, now_ms: int, *asked: object) -> Attempt:
    """What tells this request from others: `asked` is all that it asks for, as values that JSON can express.

    `now_ms`: by the clock that rows are written by.

    Without a key, a client may say how often it has sent the request before: more than never means that the answer
    to the first was lost, not that the file shall run twice.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= KEY_LENGTH_MAX:
        message = f"An idempotency key has 1 to {KEY_LENGTH_MAX} characters; this one has {len(key)}."
        raise InvalidInput(message, param="Idempotency-Key", code="invalid_idempotency_key")
    is_repeated = request.headers.get("x-stainless-retry-count", "0") != "0"
    digest = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
    return Attempt(digest, key, now_ms - REPEAT_WINDOW_MS if is_repeated else None)
