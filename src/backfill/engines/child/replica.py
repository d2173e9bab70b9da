"""What is the same of every built-in engine: its program runs in a child process, which is started and ended here."""

from backfill.engines.child.server import ChildServer
from backfill.engines.replica import Gauges

__all__ = ["ChildReplica"]


class ChildReplica:
    """The part of a replica that its child process is; what is sent to it, and how, is the engine's own."""

    def __init__(self, server: ChildServer) -> None:
        self._server = server

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None while the child is not up."""
        return self._server.address

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._server.pid

    @property
    def key(self) -> str:
        """What requests to `address` must bring as a bearer token; another one after each start."""
        return self._server.key

    async def start(self) -> None:
        """Return once the engine answers; at once if it does. Many tasks share one start.

        The first start fetches the model if it is not there. A start soon after the child ended waits its turn
        (`restarts`).

        Raises:
            EngineUnavailable: library or model is not to be had, or the child did not come up; the message says why.

        """
        await self._server.start()

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None while the child is not up."""
        return await self._server.read_gauges()

    async def stop(self) -> None:
        """End the child, politely for 3 s; safe to call twice, before and during a start."""
        await self._server.stop()
