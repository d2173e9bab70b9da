"""How both dialects write the time that a batch may take: `completion_window`. Pure."""

import re

from backfill.errors import InvalidInput
from backfill.wire.quotation import quote

__all__ = ["parse_window"]

_WINDOW = re.compile(r"0*(\d{1,9})([mhd])", re.IGNORECASE | re.ASCII)
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_window(window: str, min_h: float, max_h: float) -> int:
    """A completion window such as "24h", "30m" or "2D" in milliseconds; raises InvalidInput."""
    match = _WINDOW.fullmatch(window)
    window_ms = int(match[1]) * _UNIT_MS[match[2].lower()] if match else 0
    if not min_h <= window_ms / _UNIT_MS["h"] <= max_h:
        form = f"a whole number and m, h or d, from {_render(min_h)} to {_render(max_h)}"
        raise InvalidInput(f"completion_window must be {form}; got {quote(window)}.", param="completion_window")
    return window_ms


def _render(hours: float) -> str:
    return f"{hours:g}h" if hours >= 1 else f"{60 * hours:g}m"
