"""Live requests at a process without engines: there is nobody to answer them."""

from typing import NoReturn

from backfill.errors import EngineUnavailable
from backfill.live.traffic import LiveTraffic

__all__ = ["AbsentTraffic"]


class AbsentTraffic(LiveTraffic):
    """Says so."""

    def check(self, endpoint: str, body: bytes) -> NoReturn:  # noqa: ARG002 - whatever is asked
        """Raises EngineUnavailable."""
        message = (
            f"This server takes in batches and has no engines of its own, so that it answers no {endpoint} itself; "
            "send what cannot wait to a server that has (backfill serve --role all)."
        )
        raise EngineUnavailable(message)
