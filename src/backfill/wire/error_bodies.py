"""Reads the bodies of lines that have no answer, as the journal has them."""

from typing import Any

import msgspec

__all__ = ["decode_error_body"]


def decode_error_body(body: bytes) -> dict[str, Any]:
    """Its members; where an engine's words are no JSON object that can be read, an object with them as message.

    Dispatch writes none of these, but a batch must end whatever its journal holds.
    """
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = None
    if isinstance(decoded, dict):
        return decoded
    return {"message": body.decode(errors="replace")}
