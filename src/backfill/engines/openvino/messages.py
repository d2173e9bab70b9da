"""What the process that starts OpenVINO and the process that runs it tell each other, as JSON.

They stand apart from `host` so that the parent does not load the engine's library.
"""

from typing import Final

import msgspec

__all__ = ["LIVE_HEADER", "HostSettings", "Ready"]

LIVE_HEADER: Final = "X-Backfill-Live"
"""A request that brings it goes before those that do not: somebody waits for its answer."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent wants served."""

    model: str
    """Path of a GGUF file or of a folder in OpenVINO's own format (IR)."""
    alias: str
    """What answers call the model."""
    concurrency: int
    """Requests computed side by side at most."""
    context_tokens: int
    """Prompt and answer of one request at most. 0: the model's own."""
    kv_cache_gb: int
    """0: grows on demand."""
    threads: int
    """0: as the library chooses."""
    deterministic: bool
    """Whether a request's answer never depends on what is computed beside it."""


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """The one line on stdout."""

    url: str = ""
    error: str = ""
    context_tokens: int = 0
    """What one request may take, prompt and answer together."""
