"""What the scaler knows of a cluster: who runs there, and how to have one more or one less."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

__all__ = ["Cluster", "Phase", "Placed", "Placement"]


class Phase(StrEnum):
    """How far a worker on the cluster is."""

    STARTING = "starting"
    """It has no place yet, or does not answer."""
    UP = "up"
    DRAINING = "draining"
    """It gives its turns back, and will end."""
    ENDED = "ended"
    """Its process has ended as it was told to; only its name is left."""


class Placement(NamedTuple):
    """A worker by its name: there is never a second one of that engine and number."""

    engine: str
    number: int


class Placed(msgspec.Struct, frozen=True):
    """A worker on the cluster, as it is now."""

    engine: str
    number: int
    phase: Phase = Phase.STARTING
    host: str = ""
    """Where its process runs; empty: it does not, or nobody knows."""
    pid: int = 0
    trouble: str = ""
    """Why it is not up, where that is known."""

    @property
    def placement(self) -> Placement:
        """Its name."""
        return Placement(self.engine, self.number)

    @property
    def counts(self) -> bool:
        """Whether it works, or will."""
        return self.phase in {Phase.STARTING, Phase.UP}


class Cluster(Protocol):
    """Each call raises EngineUnavailable if the cluster does not answer: then nothing may have happened, or all."""

    async def list(self) -> list[Placed]:
        """All workers of this installation, whoever has started them."""

    async def start(self, placement: Placement, resources: Mapping[str, float]) -> None:
        """Have one more, which may take long; one of that name that is there already stays as it is."""

    async def drain(self, placement: Placement) -> None:
        """Have it give its turns back and end; it is ENDED after that. One without a place goes at once."""

    async def remove(self, placement: Placement) -> None:
        """Forget it; a process that it still has is killed."""
