"""One start that everybody who needs an engine waits for."""

import asyncio
from collections.abc import Awaitable, Callable

from backfill.errors import EngineUnavailable

__all__ = ["SharedStart"]


class SharedStart:
    """Runs `bring_up` at most once at a time, in a task of its own: it outlives the caller that was the first."""

    def __init__(self, name: str, bring_up: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._bring_up = bring_up
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Begin, or wait for the one that has begun.

        Raises:
            EngineUnavailable: `bring_up` raised it, or `cancel` ended it.

        """
        task = self._task
        if task is None:
            self._task = task = asyncio.create_task(self._run(), name=f"start {self._name}")
            task.add_done_callback(self._forget)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):
                message = f"Engine {self._name!r} was stopped while it started."
                raise EngineUnavailable(message) from None
            raise

    async def cancel(self) -> None:
        """End a start that has begun, and wait until it has cleaned up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        await self._bring_up()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # the callers have it; asyncio need not complain if they are gone
