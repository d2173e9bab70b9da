"""What a message cites of what was sent: in quotes, on one line, and never long."""

import msgspec

__all__ = ["quote"]

_MOST_CHARACTERS = 60


def quote(text: str) -> str:
    """The text as a JSON string, its end left out if it is long; half a character is shown as its escape."""
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
    return msgspec.json.encode(shown.encode(errors="backslashreplace").decode()).decode()
