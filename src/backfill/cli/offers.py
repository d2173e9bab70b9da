"""Words that the shell offers at the tab key for options that take one of a few."""

import os
from collections.abc import Iterator

from backfill.batch import ENDPOINTS

__all__ = ["offer_endpoints", "offer_key_variables", "offer_windows"]

_WINDOWS = ("15m", "1h", "6h", "12h", "24h", "48h", "72h")
_SECRETS = ("KEY", "TOKEN")


def offer_endpoints(incomplete: str) -> list[str]:
    """Where requests may go."""
    return [path for path in ENDPOINTS if path.startswith(incomplete)]


def offer_windows(incomplete: str) -> list[str]:
    """How long a batch may take, as far as any server lets it."""
    return [window for window in _WINDOWS if window.startswith(incomplete)]


def offer_key_variables(incomplete: str) -> Iterator[str]:
    """Variables of the environment that are called like ones with a key."""
    return (name for name in sorted(os.environ) if name.startswith(incomplete) and name.endswith(_SECRETS))
