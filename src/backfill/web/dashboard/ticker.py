"""One tick a second: what pages show is rendered once for all who look at the same, and sent where it has changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from backfill.errors import BackfillError

__all__ = ["Ticker"]

_Key = TypeVar("_Key", bound=Hashable)
Parts = dict[str, str]
"""Id of an element of the page -> what is in it."""
_log = structlog.get_logger(__name__)


class _Channel:
    """What all viewers of one page see."""

    def __init__(self) -> None:
        self.viewers = 0
        self.parts: Parts = {}
        self.ticked = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Ticker(Generic[_Key]):
    """Renders as long as somebody looks, and stops with the last one."""

    def __init__(self, render: Callable[[_Key], Awaitable[Parts]], tick_s: float = 1.0) -> None:
        """`render` gives all parts of a page that may change."""
        self._render = render
        self._tick_s = tick_s
        self._channels: dict[_Key, _Channel] = {}

    @property
    def viewers(self) -> int:
        """How many look at pages now."""
        return sum(channel.viewers for channel in self._channels.values())

    async def follow(self, key: _Key) -> AsyncIterator[Parts]:
        """The parts that have changed since the last time, once a tick; empty where none has."""
        channel = self._channels.setdefault(key, _Channel())
        channel.viewers += 1
        if channel.task is None:
            channel.task = asyncio.create_task(self._run(key, channel), name="render a page")
        sent: Parts = {}
        try:
            while True:
                ticked = channel.ticked
                await ticked.wait()
                changed = {name: part for name, part in channel.parts.items() if sent.get(name) != part}
                sent = channel.parts
                yield changed
        finally:
            channel.viewers -= 1
            if not channel.viewers:
                self._channels.pop(key, None)
                channel.task.cancel()

    async def _run(self, key: _Key, channel: _Channel) -> None:
        while True:
            try:
                channel.parts = await self._render(key)
            except Exception as error:  # noqa: BLE001 - a page keeps what it shows until the disk, say, is back
                reason = error.message if isinstance(error, BackfillError) else repr(error)
                _log.warning("a page could not be brought up to date", reason=reason)
            ticked, channel.ticked = channel.ticked, asyncio.Event()
            ticked.set()
            await asyncio.sleep(self._tick_s)
