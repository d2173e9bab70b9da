"""When keys were used the last time: noted in memory, and written once a minute, all together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec
import structlog

from backfill.api_key import ApiKey
from backfill.errors import StoreUnavailable

__all__ = ["KeyUses"]

_PERIOD_S = 60.0
_log = structlog.get_logger(__name__)


class KeyUses:
    """A request costs an entry in a dict; what a crash loses of it is a minute."""

    def __init__(self, write: Callable[[Mapping[str, int]], Awaitable[None]], period_s: float = _PERIOD_S) -> None:
        """`write` is given the ids of keys with the time of their last use, in ms since the epoch."""
        self._write = write
        self._period_s = period_s
        self._at_ms: dict[str, int] = {}
        self._unwritten: set[str] = set()
        self._stopping = asyncio.Event()

    def note(self, key_id: str, now_ms: int) -> None:
        """Somebody was let in with a key."""
        self._at_ms[key_id] = now_ms
        self._unwritten.add(key_id)

    def add_to(self, key: ApiKey) -> ApiKey:
        """The key with what is known here of its last use."""
        at_ms = self._at_ms.get(key.id)
        return key if at_ms is None else msgspec.structs.replace(key, last_used_at_ms=at_ms)

    async def run(self) -> None:
        """Write until `stop` is called, and once more then."""
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._stopping.wait()
            await self.write()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def write(self) -> None:
        """Write what was noted since the last time; what fails is written the next time."""
        noted, self._unwritten = self._unwritten, set()
        if not noted:
            return
        try:
            await self._write({key_id: self._at_ms[key_id] for key_id in noted})
        except StoreUnavailable as error:
            self._unwritten |= noted
            _log.warning("when keys were used cannot be written now", reason=error.message)
