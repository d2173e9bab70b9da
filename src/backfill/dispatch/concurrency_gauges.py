"""Follows an engine's own gauges: as many in flight as keep its queue just from running dry. Pure."""

import math
from collections import deque
from dataclasses import dataclass, field

from backfill.engines import Gauges

__all__ = ["GaugeFollower"]

_FACTOR = 1.25
_START_FACTOR = 3.0
"""Until the first queue is seen: from 16 to 2,000 in five readings."""
_SHORT_QUEUE = 0.1
"""Requests that wait, over those that run. Fewer: more could run. Ten per cent fill the slots that come free before
our next requests arrive."""
_LONG_QUEUE = 0.2
_FULL = 0.95
"""KV cache use from which more requests only push out others, which are then computed twice."""
_STALE_S = 1.5
"""Gauges are read about once a second: what they say so long after a change was read after it."""
_STANDING_S = 3.0
"""A queue counts by its least length over so long, as in CoDel (RFC 8289): a burst of prompts passes by itself."""


@dataclass(slots=True)
class GaugeFollower:
    """Grows by a quarter while next to nothing waits in the engine, shrinks by what waits too much."""

    ceiling: int
    limit: int
    queued: bool = False
    """The engine has all it can run."""
    _starting: bool = True
    _changed_at_s: float = -math.inf
    _readings: deque[tuple[float, int, int]] = field(default_factory=deque)
    """Time, running and waiting, since the last change."""

    def tick(self, now_s: float, in_flight: int, gauges: Gauges, *, used: bool, may_grow: bool) -> None:
        """Set `limit` by a reading, unless the reading is older than the last change.

        `used`: as many requests are in flight as allowed.
        """
        running, waiting = gauges.running, gauges.waiting
        if running is None or waiting is None or not self._is_fresh(now_s, in_flight, running + waiting):
            return
        full = (gauges.kv_cache_use or 0.0) >= _FULL
        short = waiting <= _SHORT_QUEUE * running
        self.queued = not short or (full and used)
        if self.queued:
            self._starting = False
        self._note_reading(now_s, running, waiting)
        most_running = max(one[1] for one in self._readings)
        stood = now_s - self._readings[0][0] >= _STANDING_S - 1e-6
        if stood and min(one[2] for one in self._readings) > max(1.0, _LONG_QUEUE * most_running):
            self._set(min(self.limit, math.ceil(most_running * (1 + _SHORT_QUEUE))), now_s)
        elif short and used and may_grow and not full and (self._starting or (stood and self._was_short())):
            factor = _START_FACTOR if self._starting else _FACTOR
            self._set(min(self.ceiling, math.ceil(self.limit * factor)), now_s)

    def _note_reading(self, now_s: float, running: int, waiting: int) -> None:
        self._readings.append((now_s, running, waiting))
        while now_s - self._readings[0][0] > _STANDING_S + 1e-6:
            self._readings.popleft()

    def _was_short(self) -> bool:
        return all(waiting <= _SHORT_QUEUE * running for _, running, waiting in self._readings)

    def resume_at(self, limit: int) -> None:
        """Go on from a number that another signal has set."""
        if limit != self.limit:
            self.limit = limit
            self._starting = False

    def _is_fresh(self, now_s: float, in_flight: int, counted: int) -> bool:
        return abs(counted - in_flight) <= max(1, 0.1 * in_flight) or now_s - self._changed_at_s >= _STALE_S

    def _set(self, limit: int, now_s: float) -> None:
        if limit != self.limit:
            self.limit, self._changed_at_s = limit, now_s
            self._readings.clear()
