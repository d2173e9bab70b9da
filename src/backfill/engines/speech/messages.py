"""What the process that starts the speech engine and the process that runs it tell each other, as JSON.

They stand apart from `host` so that the parent does not load the engine's library.
"""

import msgspec

__all__ = ["HostSettings", "Ready"]


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent wants served."""

    model: str
    """Path of a folder in CTranslate2's format."""
    alias: str
    """What answers call the model."""
    workers: int
    """Threads that compute, each on one core."""
    concurrency: int
    """Files worked on side by side at most."""
    batch_size: int
    """Stretches of speech that a worker decodes together at most."""
    beam_size: int
    compute_type: str
    """As CTranslate2 names them."""
    work_dir: str
    """Where uploads lie while they are worked on; they have no names there, so they go with the process."""
    file_size_max_bytes: int
    length_max_s: float
    """Of one file."""


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """The one line on stdout."""

    url: str = ""
    error: str = ""
