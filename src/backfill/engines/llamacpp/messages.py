"""What the process that starts llama.cpp and the process that runs it tell each other, as JSON.

They stand apart from `host` so that the parent does not load the engine's library.
"""

import msgspec

__all__ = ["HostSettings", "Ready"]


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent wants served."""

    model: str
    """Path of the GGUF file."""
    alias: str
    """What answers call the model."""
    slots: int
    context_tokens: int
    """Of each slot."""
    threads: int
    """0: one for each core this process may use."""
    embeddings: bool
    projector: str = ""
    """Path of the GGUF file with which the model sees; empty: it does not."""


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """The one line on stdout."""

    url: str = ""
    error: str = ""
