"""A hint between rooms of one process that something was written down. Nothing depends on it but the waiting time."""

import asyncio

__all__ = ["Bell"]


class Bell:
    """`ring` wakes whoever waits, or the next one who comes; every waiter has a bell of its own."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Say that there may be something to do."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next ring, or after the time-out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
