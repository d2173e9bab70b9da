"""What live requests at one replica mean for those who feed it with batches: seen at once, judged by `headroom`."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from backfill.dispatch.headroom import Headroom
from backfill.dispatch.preemption import Preemption
from backfill.engines import Gauges, Presence, Replica, ReplicaLimits
from backfill.status import ReplicaStatus

__all__ = ["LiveShare"]

_FOREIGN_SHARE = 0.01
"""Of our own requests: so many more in an engine's gauges may be between two countings."""
_REFILL = 1.5
"""How much faster than the engine ends requests its free places are filled."""
_PACE_MOST_S = 0.25
_ABLE_MOST = 2
"""Lines that could give way at once: no more are looked for."""
_log = structlog.get_logger(__name__)


class LiveShare:
    """Follows the live requests of one replica. As long as there are none it only says so."""

    def __init__(self, replica: Replica) -> None:
        self.presence = Presence()
        self.foreign = 0
        """Requests that the engine has of others, by its own gauges."""
        self.is_binding = False
        """They leave less of the replica than batches could use."""
        self.preemption = Preemption(replica.limits)
        """Lines in flight that give way to them."""
        self._replica = replica
        self._headroom = Headroom()
        self._headroom.waits_for_steps_only = replica.limits.puts_live_first
        self._loop = asyncio.get_running_loop()
        self._arrived_at_s: float | None = None
        self._last_gauges = Gauges()
        self._suspected = 0
        self._is_told = False
        self._filled_at_s = 0.0
        self._on_change: Callable[[], None] = lambda: None

    @property
    def is_shared(self) -> bool:
        """Whether live requests are about, or were until a moment ago."""
        return self._headroom.is_shared

    @property
    def live(self) -> int:
        """Live requests that the engine has, ours and those of others."""
        return self.presence.running + self.foreign

    def adopt(self, limits: ReplicaLimits) -> None:
        """The replica is one with these limits."""
        self.preemption.adopt(limits)
        self._headroom.waits_for_steps_only = limits.puts_live_first

    def follow(self, presence: Presence, in_flight: Callable[[], int], on_change: Callable[[], None]) -> None:
        """Take these for the live requests there; `on_change` is called when there may be more or less room.

        `in_flight` counts the requests of batches.
        """
        self.presence = presence
        self._on_change = on_change
        presence.count_batches = in_flight
        presence.subscribe(self._note_presence)

    def allow(self, limit: int) -> int:
        """Requests of batches in flight at most, of `limit`."""
        if not self._headroom.is_shared:
            return limit
        ceiling = self._replica.limits.concurrency
        able = self.preemption.count_able(_ABLE_MOST) if self.preemption.is_possible else 0
        left = self._headroom.allow(self._loop.time(), limit, ceiling, self.presence, able)
        self.is_binding = left < limit
        return left

    def take_places(self, in_flight: int) -> None:
        """Where live requests find too few places of the engine free, have lines leave; one of `in_flight` stays."""
        preemption = self.preemption
        if not self.presence.waiting or not preemption.is_possible:
            return
        staying = in_flight - preemption.leaving
        lacking = self.presence.running + staying - self._replica.limits.concurrency
        if lacking > 0:
            preemption.preempt(min(lacking, staying - 1))

    def pace_s(self, requests_per_s: float) -> float:
        """Seconds until another place may be filled; 0: now, which counts as filled.

        Many prompts at once would hold up a live one that comes just then, so with live requests about free places are
        filled one by one, at the pace at which the engine is through with some.
        """
        if not self._headroom.is_shared:
            return 0.0
        now_s = self._loop.time()
        if now_s < self._filled_at_s:
            return self._filled_at_s - now_s
        self._filled_at_s = now_s + min(_PACE_MOST_S, 1.0 / max(_REFILL * requests_per_s, 1.0))
        return 0.0

    def describe(self, status: ReplicaStatus, limit: int) -> ReplicaStatus:
        """The replica's status with the live requests in it."""
        if not self.live and not self.is_shared:
            return status
        left = self.allow(limit)
        return msgspec.structs.replace(status, live_in_flight=self.live, batch_limit=left if left < limit else None)

    def tick(self, now_s: float, gauges: Gauges, limit: int) -> None:
        """Look at time and gauges, a few times a second; batches may have `limit` requests in flight at most."""
        if gauges is not self._last_gauges:
            self._last_gauges = gauges
            self._note_gauges(now_s, gauges)
        if self._headroom.is_shared:
            self._headroom.tick(now_s, self.live)
            self.is_binding = self.allow(limit) < limit
            self._tell()

    def _note_presence(self) -> None:
        presence, headroom = self.presence, self._headroom
        if presence.arrived_at_s is not None and presence.arrived_at_s != self._arrived_at_s:
            self._arrived_at_s = presence.arrived_at_s
            headroom.note_arrival(presence.arrived_at_s, presence.running)
        if presence.first_tokens:
            headroom.note_first_tokens(presence.first_tokens)
            presence.first_tokens.clear()
        self._on_change()

    def _note_gauges(self, now_s: float, gauges: Gauges) -> None:
        seen = gauges.foreign or 0
        if seen <= _FOREIGN_SHARE * self.presence.count_batches():
            seen = 0
        # Seen once it may be our own request that has just ended.
        self.foreign, self._suspected = min(seen, self._suspected), seen
        self._headroom.note_gauges(now_s, self.foreign, gauges.running or 0, gauges.waiting or 0)

    def _tell(self) -> None:
        is_shared = self._headroom.is_shared and (self.live > 0 or self._is_told)
        if is_shared != self._is_told:
            self._is_told = is_shared
            event = "batches make room for live requests" if is_shared else "batches take back what live requests had"
            _log.info(event, engine=self._replica.name)
