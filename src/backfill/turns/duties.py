"""What one process at a time does, of all on a data directory: admission, webhooks, tidying up, one upload."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from backfill.errors import StoreUnavailable
from backfill.store import Leases
from backfill.turns.bell import Bell

__all__ = ["ADMISSION", "DEADLINES", "RETENTION", "WEBHOOKS", "Duties"]

ADMISSION = "admission"
"""New batches are judged, and those end whose time is over."""
DEADLINES = "deadlines"
"""Which of them are in danger is judged for all who work."""
WEBHOOKS = "webhooks"
RETENTION = "retention"
_LOOK_AGAIN_S = 0.1
_log = structlog.get_logger(__name__)


class Duties:
    """Those that this process has, by leases that it renews; a process that is alone has all of them, and no leases."""

    def __init__(self, leases: Leases | None = None) -> None:
        """`leases`: those of all processes; None: there is no other one."""
        self._leases = leases
        self._until_s: dict[str, float] = {}
        """Duty -> until when it is ours for certain, by the event loop's clock."""
        self._users: Counter[str] = Counter()
        """Duty -> how many need it only for a while."""
        self._bell = Bell()
        self._is_stopped = False

    @property
    def is_alone(self) -> bool:
        """Whether no other process works on the data directory."""
        return self._leases is None

    async def has(self, name: str) -> bool:
        """Whether this process has the duty; it takes it if nobody has. Raises StoreUnavailable."""
        if self._leases is None:
            return True
        now_s = asyncio.get_running_loop().time()
        # The clock goes on while the process is frozen.
        if self._until_s.get(name, now_s) > now_s:
            return True
        self._until_s.pop(name, None)
        is_taken = not self._is_stopped and await self._take(name)
        if is_taken and self._is_stopped:
            # What was ours then is given back already; nobody would give this one back.
            await self.drop(name)
            return False
        return is_taken

    @property
    def period_s(self) -> float:
        """How often leases are renewed; 0 without others."""
        return 0.0 if self._leases is None else self._leases.lease_ms / 3000

    @property
    def patience_s(self) -> float:
        """After how long a duty of a process that has died is free for certain; 0 without others."""
        return 0.0 if self._leases is None else self._leases.lease_ms / 1000 + 1

    @asynccontextmanager
    async def trying(self, name: str, *, patience_s: float = 0.0) -> AsyncIterator[bool]:
        """Have the duty for as long as the block takes, if no other process has it: whether that is so.

        `patience_s`: so long it may take until the other one lets go, or has died.
        Several in this process may be in such a block at once; it is for them to keep apart.
        """
        self._users[name] += 1
        try:
            yield await self._has_within(name, patience_s)
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                await self.drop(name)

    @asynccontextmanager
    async def alone_at(self, name: str) -> AsyncIterator[None]:
        """The same, but wait until it is free."""
        async with self.trying(name) as is_free:
            while not (is_free or await self.has(name)):  # noqa: ASYNC110 - what ends elsewhere rings no bell here
                await asyncio.sleep(_LOOK_AGAIN_S)
            yield

    async def _has_within(self, name: str, patience_s: float) -> bool:
        until_s = asyncio.get_running_loop().time() + patience_s
        # What ends elsewhere rings no bell here.
        while not (is_ours := await self.has(name)) and asyncio.get_running_loop().time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_S)
        return is_ours

    async def drop(self, name: str) -> None:
        """Let another process have it at once; never raises, since it is free before long anyway."""
        if self._leases is not None and self._until_s.pop(name, None) is not None:
            with suppress(StoreUnavailable):
                await self._leases.give_back(name)

    async def sweep(self) -> None:
        """Forget the duties of processes that died with them; raises StoreUnavailable."""
        if self._leases is not None:
            await self._leases.sweep()

    async def run(self) -> None:
        """Renew what is ours until `stop` is called; then give all of it back."""
        if self._leases is None:
            return
        while not self._is_stopped:
            await self._bell.wait(self.period_s)
            for name in [*self._until_s]:
                with suppress(StoreUnavailable):
                    if name in self._until_s and not await self._renew(name):
                        _log.warning("duty lost to another process", duty=name)
        for name in [*self._until_s]:
            await self.drop(name)

    def stop(self) -> None:
        """Take no other duty, and give back those that are ours."""
        self._is_stopped = True
        self._bell.ring()

    async def _renew(self, name: str) -> bool:
        assert self._leases is not None  # noqa: S101 - one that is alone renews none
        until_s = asyncio.get_running_loop().time() + self._leases.lease_ms / 1000
        is_ours = await self._leases.take(name)
        if name in self._until_s:
            if is_ours:
                self._until_s[name] = max(until_s, self._until_s[name])
            else:
                del self._until_s[name]
            return is_ours
        # Dropped meanwhile, and this may have taken it anew: nobody else would ever give it back. Whoever begins to
        # need it from here on takes it behind this.
        if is_ours and name not in self._users:
            await self._leases.give_back(name)
        return True

    async def _take(self, name: str) -> bool:
        assert self._leases is not None  # noqa: S101 - one that is alone takes none
        # From before the question: the answer may have been long under way.
        until_s = asyncio.get_running_loop().time() + self._leases.lease_ms / 1000
        if not await self._leases.take(name):
            self._until_s.pop(name, None)
            return False
        self._until_s[name] = until_s
        return True
