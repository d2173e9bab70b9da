"""How a line that needs more than its body goes to a replica."""

from typing import Protocol

from backfill.engines import OnFirstToken, Replica, Reply

__all__ = ["LineSender", "NotSent", "SenderSource"]


class NotSent(Exception):
    """A line was not sent after all: it waits again for what it names, or has its outcome."""


class LineSender(Protocol):
    """Sends one line."""

    async def __call__(self, endpoint: str, body: bytes, on_first_token: OnFirstToken | None = None) -> Reply:
        """As `Replica.send`; raises NotSent, and StoreUnavailable if the disk takes or gives nothing."""


class SenderSource(Protocol):
    """Whoever has what the lines of a lane need."""

    def make_sender(self, replica: Replica, line: int) -> LineSender:
        """Sends the line to the replica."""
