"""Whether this server can do its work: each part is tried, at most once a second however often somebody asks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from backfill.errors import BackfillError

__all__ = ["OK", "Readiness"]

OK = "ok"
_AGE_MAX_S = 1.0
# A part that takes longer is as good as none: who asks has patience for some seconds.
_PATIENCE_S = 2.0
_log = structlog.get_logger(__name__)

Check = Callable[[], Awaitable[None]]
"""Returns if the part works; raises if not."""


class Readiness:
    """Knows of each part whether it works, and says of one that does not no more than one word to strangers."""

    def __init__(self, checks: Mapping[str, Check], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._checks = checks
        self._clock_s = clock_s
        self._running: dict[str, asyncio.Task[str]] = {}
        self._found: dict[str, str] = {}
        self._found_at_s: float | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> Mapping[str, str]:
        """Name of the part -> "ok", or in a few words what is the matter with it."""
        async with self._looking:
            if self._found_at_s is None or self._clock_s() - self._found_at_s >= _AGE_MAX_S:
                found = dict(zip(self._checks, await asyncio.gather(*map(self._try, self._checks)), strict=True))
                self._found, self._found_at_s = found, self._clock_s()
            return self._found

    async def _try(self, name: str) -> str:
        # One that hangs is not asked again before it has answered: it would take one thread after the other.
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._ask(name), name=f"look at {name}")
        await asyncio.wait({task}, timeout=_PATIENCE_S)
        if not task.done():
            return "no answer"
        del self._running[name]
        return task.result()

    async def _ask(self, name: str) -> str:
        try:
            await self._checks[name]()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was asked for
            state = "no room" if isinstance(error, BackfillError) and error.code == "disk_full" else "unavailable"
            # The reason may name paths of this machine: that is for the log, and once.
            if state != self._found.get(name):
                _log.warning("not ready", part=name, state=state, reason=str(error))
            return state
        if self._found.get(name, OK) != OK:
            _log.info("ready again", part=name)
        return OK
