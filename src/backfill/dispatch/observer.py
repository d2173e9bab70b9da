"""Watches one replica at work: its gauges, its rates, and what keeps it from doing more."""

import asyncio
import time

import structlog

from backfill.dispatch.concurrency import ConcurrencyController
from backfill.dispatch.pace import Pace
from backfill.dispatch.tally import Tally
from backfill.engines import Gauges, Replica
from backfill.status import Bottleneck, ReplicaState, ReplicaStatus

__all__ = ["Observer"]

_GAUGES_PERIOD_S = 1.0
# An engine that showed no gauges is asked again now and then: it may have been put in its place by another.
_NO_GAUGES_PERIOD_S = 30.0
# With requests of others about, a queue that they meet should be seen soon.
_SHARED_GAUGES_PERIOD_S = 0.25
_NO_GAUGES = Gauges()
# The event loop's thread is the limit when it has less than this share of its time left.
_IDLE_SHARE = 0.1
_CPU_PERIOD_S = 1.0
_NEWS_PERIOD_S = 10.0
_log = structlog.get_logger(__name__)


class Observer:
    """What is seen of one replica."""

    def __init__(self, replica: Replica) -> None:
        self.tally = Tally()
        self.pace = Pace(self.tally)
        self._replica = replica
        self._gauges = _NO_GAUGES
        self._gauges_due_s = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._cpu_mark = (0.0, 0.0)
        self._loop_is_full = False
        self._disk_is_behind = False
        self._told = Bottleneck.UNKNOWN
        self._told_at_s = 0.0

    def observe(self, now_s: float, group: asyncio.TaskGroup | None, *, disk_is_behind: bool, in_flight: int) -> Gauges:
        """Take the measure of the last moments; gives the latest gauges, which are read beside, in `group`."""
        self.tally.mark(now_s)
        self._disk_is_behind = disk_is_behind
        if now_s - self._cpu_mark[0] >= _CPU_PERIOD_S:
            cpu_s = time.thread_time()
            self._loop_is_full = cpu_s - self._cpu_mark[1] > (now_s - self._cpu_mark[0]) * (1 - _IDLE_SHARE)
            self._cpu_mark = (now_s, cpu_s)
        if group is not None and in_flight and self._reading is None and now_s >= self._gauges_due_s:
            self._reading = group.create_task(self._read_gauges(), name=f"gauges {self._replica.name}")
        return self._gauges

    def name_bottleneck(self, found: Bottleneck, *, has_work: bool) -> Bottleneck:
        """What keeps the replica from doing more; `found` is what its controller sees."""
        if not has_work:
            return Bottleneck.WORK
        if self._disk_is_behind:
            return Bottleneck.DISK
        # A busy loop is no wonder while the engine is as busy: it is the limit only where the engine is not.
        if self._loop_is_full and found is not Bottleneck.UPSTREAM_LIMIT:
            return Bottleneck.BACKFILL
        return found

    def tell_bottleneck(self, now_s: float, controller: ConcurrencyController, *, has_work: bool) -> None:
        """Log the bottleneck when it has changed, a few times a minute at most."""
        bottleneck = self.name_bottleneck(controller.bottleneck, has_work=has_work)
        is_news = bottleneck not in (self._told, Bottleneck.UNKNOWN, Bottleneck.WORK)
        if is_news and now_s - self._told_at_s >= _NEWS_PERIOD_S:
            self._told, self._told_at_s = bottleneck, now_s
            _log.info(
                "bottleneck",
                engine=self._replica.name,
                bottleneck=bottleneck.value,
                concurrency_limit=controller.limit,
                requests_per_s=round(self.tally.requests_per_s, 1),
                completion_tokens_per_s=round(self.tally.completion_tokens_per_s, 1),
            )

    def describe(
        self, state: ReplicaState, bottleneck: Bottleneck, *, in_flight: int, limit: int, trouble: str | None
    ) -> ReplicaStatus:
        """All of it, as the nouns of the outside."""
        tally = self.tally
        return ReplicaStatus(
            name=self._replica.name,
            state=state,
            bottleneck=bottleneck,
            in_flight=in_flight,
            concurrency_limit=limit,
            concurrency_ceiling=self._replica.limits.concurrency,
            requests_per_s=round(tally.requests_per_s, 2) if in_flight else 0.0,
            completion_tokens_per_s=round(tally.completion_tokens_per_s, 2) if in_flight else 0.0,
            answered=tally.answered,
            lost=tally.lost,
            rate_limited=tally.rate_limited,
            reused=tally.reused,
            preempted=tally.preempted,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            cached_tokens=tally.cached_tokens,
            busy_ms=round(tally.busy.total_s * 1000),
            waiting_in_engine=self._gauges.waiting,
            kv_cache_use=self._gauges.kv_cache_use,
            trouble=trouble,
        )

    async def _read_gauges(self) -> None:
        try:
            self._gauges = await self._replica.read_gauges()
        except Exception as error:  # noqa: BLE001 - gauges are a hint; an engine's odd text must not end the feeding
            self._gauges = _NO_GAUGES
            _log.warning("gauges cannot be read", engine=self._replica.name, reason=repr(error))
        finally:
            period_s = _NO_GAUGES_PERIOD_S if self._gauges == _NO_GAUGES else _GAUGES_PERIOD_S
            if self._gauges.foreign:
                period_s = _SHARED_GAUGES_PERIOD_S
            self._gauges_due_s = asyncio.get_running_loop().time() + period_s
            self._reading = None
