"""A hint between rooms of one process that something was written down. Nothing depends on it but the waiting time."""

import asyncio

__all__ = ["Bell"]

# A look for work takes about a millisecond, whether it finds one batch or a hundred.
_PAUSE_S = 0.02


class Bell:
    """`ring` wakes whoever waits, or the next one who comes; every waiter has a bell of its own."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._heard_at_s = float("-inf")

    def ring(self) -> None:
        """Say that there may be something to do."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next ring, or after the time-out; what rings soon after the last return is heard together."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._heard_at_s + _PAUSE_S - loop.time()))
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
            self._event.clear()
        except TimeoutError:
            pass
        self._heard_at_s = loop.time()
