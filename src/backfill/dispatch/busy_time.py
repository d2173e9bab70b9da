"""How long a replica had anything to do: the union of the times of its requests, found as each of them ends."""

import math
from collections.abc import Sequence

__all__ = ["BusyTime"]

# Idle times before these are never filled up any more: a request that began before them would have run for very long.
_GAPS_KEPT = 1000


class BusyTime:
    """Takes requests in the order in which they end; times are in seconds, of one clock."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._last_end_s = -math.inf
        self._gaps: list[tuple[float, float]] = []
        """When it was idle, as far as is known, the last time last."""

    def add(self, started_s: Sequence[float], ended_s: Sequence[float]) -> None:
        """Requests were with the replica from the one time to the other."""
        first_s = min(started_s)
        if first_s <= max(started_s) <= self._last_end_s and first_s >= self._gaps[-1][1]:
            # No idle time begins or ends with any of them.
            self.total_s += ended_s[-1] - self._last_end_s
            self._last_end_s = ended_s[-1]
            return
        for one_started_s, one_ended_s in zip(started_s, ended_s, strict=True):
            self._add(one_started_s, one_ended_s)

    def _add(self, started_s: float, ended_s: float) -> None:
        last_s = self._last_end_s
        self.total_s += ended_s - max(last_s, started_s)
        if started_s > last_s:
            self._gaps.append((last_s, started_s))
            del self._gaps[:-_GAPS_KEPT]
        elif started_s < self._gaps[-1][1]:
            self._fill_gaps(started_s)
        self._last_end_s = ended_s

    def _fill_gaps(self, started_s: float) -> None:
        """What seemed idle while a request was on its way was not."""
        while self._gaps[-1][1] > started_s:
            begin_s, end_s = self._gaps.pop()
            self.total_s += end_s - max(begin_s, started_s)
            if begin_s < started_s or not self._gaps:
                self._gaps.append((begin_s, max(begin_s, started_s)))
