"""Values of any table as text for a prompt, and answers as text for a cell."""

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

__all__ = ["NoText", "render_cell", "render_text"]


class NoText(ValueError):
    """The value cannot be part of a prompt; the message says why, behind the column's name."""


def render_text(value: Any) -> str:
    """A value as it stands in a prompt: null is nothing, lists and objects are JSON; raises NoText."""
    if type(value) is str:
        return _check_text(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if value != value else repr(value)  # noqa: PLR0124 - only a NaN differs from itself
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decode(bytes(value))
    return _check_text(_render_other(value))


def render_cell(value: Any) -> str:
    """A value of an answer as a cell of a table that has only text: null is empty, lists and objects are JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _render_other(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID, dt.timedelta)):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (list, dict)):
        # A number of NumPy's.
        return render_text(value.item())
    try:
        return msgspec.json.encode(value, enc_hook=render_text).decode()
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, NoText):
            raise
        raise NoText(f"holds a value of type {type(value).__name__}, which has no text") from None


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise NoText("holds binary data, which has no text") from None


def _check_text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NoText("holds half of a surrogate pair, which is no character") from None
    return text
