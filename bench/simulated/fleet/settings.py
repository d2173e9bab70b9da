"""How an installation is made up. Pure."""

from typing import NamedTuple

__all__ = ["ENDPOINT", "ENGINE", "MODEL", "TOKENS_A_LINE", "FleetSettings"]

ENGINE = "gpu"
MODEL = "m"
ENDPOINT = "/v1/chat/completions"
TOKENS_A_LINE = 10


class FleetSettings(NamedTuple):
    """Of all workers; each has one replica."""

    replicas: int
    """At most."""
    lines_per_s: float = 80.0
    """Of one replica."""
    places: int = 64
    """Requests with one replica at a time: an answer takes as long as so many lines."""
    open_s: float = 0.5
    """From a claim until lines of the turn can be sent: index and journal are read."""
    gather_s: float = 1.0
    """From the lease on a batch to be closed until its files are there."""
    commit_s: float = 1.0
    """What was answered so long before a kill, or later, is sent again."""
    start_s: float = 60.0
    """From the decision for a replica to its first look."""
    idle_s: float = 300.0
    clear_s: float = 600.0
    lease_ms: int = 30_000
    lines_per_turn: int = 2_000
    kills: int = 0
    """Workers that die without a word, one after another, spread over the time in which batches come."""
    looks_every_s: float = 2.0
    """Of the scaler. In truth also whenever a batch changes."""
    least: int = 0
    """Replicas that stay when nothing waits."""

    @property
    def answer_s(self) -> float:
        """How long a line is with the engine."""
        return self.places / self.lines_per_s
