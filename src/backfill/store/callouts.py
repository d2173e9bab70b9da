"""What processes on one database call out to each other over it, wherever they are: that something has changed.

A hint, as a `ChangeMark` is between processes of one machine: who hears nothing finds it by looking.
"""

import asyncio
import functools
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress

import structlog

from backfill.errors import StoreUnavailable
from backfill.store.database import Database

__all__ = ["BATCHES", "KEYS", "Callouts"]

BATCHES = "batches"
"""A batch was changed."""
KEYS = "keys"
"""A key was made or revoked."""
# What is called out in between goes in one call.
_PAUSE_S = 0.02
_WAIT_S = 0.5
_LONGEST_WAIT_S = 5.0
_log = structlog.get_logger(__name__)


class Callouts:
    """For one process, which does not hear itself. Without a database that carries calls nobody hears anything."""

    def __init__(self, database: Database, name: str) -> None:
        """`name` tells this process from the others."""
        self._database = database
        self._name = name
        self._untold: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._is_stopped = False

    def tell(self, topic: str) -> None:
        """Say, after the change is written, that there was one."""
        if not self._database.many_writers:
            return
        self._untold.add(topic)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell_all(), name="tell other processes")

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with each topic on which there may be something new, until `stop`."""
        if not self._database.many_writers:
            return
        self._listening = asyncio.current_task()
        try:
            await self._listen_on(hear)
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise

    def stop(self) -> None:
        """End `listen`."""
        self._is_stopped = True
        if self._listening is not None:
            self._listening.cancel()

    async def close(self) -> None:
        """Return once all is told; nothing is to be told any more."""
        if self._telling is not None:
            await self._telling

    async def _listen_on(self, hear: Callable[[str], None]) -> None:
        wait_s = _WAIT_S
        while True:
            try:
                async with aclosing(self._database.driver.listen()) as heard:
                    async for words in heard:
                        wait_s = _WAIT_S
                        for topic in self._read(words):
                            hear(topic)
            except StoreUnavailable as error:
                _log.info("changes elsewhere are found by looking for now", reason=error.message)
            # Not all processes at the same moment.
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _tell_all(self) -> None:
        driver = self._database.driver
        while self._untold:
            words = " ".join([self._name, *sorted(self._untold)])
            self._untold.clear()
            call_out = functools.partial(driver.call_out, words=words)
            with suppress(StoreUnavailable):
                await self._database.write(call_out, alone=False)
            await asyncio.sleep(_PAUSE_S)

    def _read(self, words: str) -> Sequence[str]:
        """The topics; all of them at the beginning, since nobody knows what was missed."""
        name, *topics = words.split(" ") if words else ("", BATCHES, KEYS)
        return () if name == self._name else topics
