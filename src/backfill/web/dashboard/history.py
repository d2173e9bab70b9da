"""What engines and batches did of late: kept in memory, for drawings and rates, and nowhere else."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from backfill.status import ReplicaStatus

__all__ = ["EngineHistory", "Rates"]

_STEP_S = 10.0
_STEPS = 360
_RATE_SPAN_S = 30.0
_BATCHES_KEPT = 512


class EngineHistory:
    """Tokens per second of each engine over the last hour, a number for every ten seconds."""

    def __init__(self, list_replicas: Callable[[], Sequence[ReplicaStatus]]) -> None:
        self._list_replicas = list_replicas
        self._tokens: dict[str, int] = {}
        self._rates: dict[str, deque[float]] = {}

    def find(self, engine: str) -> Sequence[float]:
        """Completion tokens per second, oldest first."""
        return tuple(self._rates.get(engine, ()))

    async def run(self) -> None:
        """Take a sample every ten seconds, until cancelled."""
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(_STEP_S)
            now_s = time.monotonic()
            self.take(now_s - last_s)
            last_s = now_s

    def take(self, passed_s: float) -> None:
        """Note what was computed in the time since the last sample."""
        for replica in self._list_replicas():
            before = self._tokens.get(replica.name, replica.completion_tokens)
            self._tokens[replica.name] = replica.completion_tokens
            rates = self._rates.setdefault(replica.name, deque(maxlen=_STEPS))
            rates.append(max(0, replica.completion_tokens - before) / max(passed_s, 1e-3))


class Rates:
    """Lines per second of batches, from how far they were at the last looks."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def note(self, batch_id: str, done: int) -> float | None:
        """Lines per second over the last half minute of looks; None at the first look."""
        now_s = self._clock_s()
        seen = self._seen.pop(batch_id, None) or deque()
        self._seen[batch_id] = seen
        if len(self._seen) > _BATCHES_KEPT:
            del self._seen[next(iter(self._seen))]
        while len(seen) > 1 and now_s - seen[0][0] > _RATE_SPAN_S:
            seen.popleft()
        rate = (done - seen[0][1]) / (now_s - seen[0][0]) if seen and now_s > seen[0][0] else None
        if not seen or now_s - seen[-1][0] >= 0.5:
            seen.append((now_s, done))
        return rate
