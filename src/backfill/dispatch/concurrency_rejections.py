"""What 429 and 503 say of the number of requests in flight. Pure."""

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["RejectionBrake"]

_FACTOR = 0.9
"""As in AIBrix since it gave up halving, which one burst of errors drove down to single digits."""
_FIRST_FACTOR = 0.5
"""Of a number that was reached in large steps and never held."""
_WINDOW_S = 1.0
_LEAST_REJECTIONS = 2
_SPAN_S = 60
"""Providers count requests by the minute."""
_REOPENED_SHARE = 1.25
"""Over what was carried on average: a little is lost before the first answer after a closed window."""


@dataclass(slots=True)
class _Second:
    begins_s: int
    duration_s: float
    """Of the answers that came in it."""


@dataclass(slots=True)
class RejectionBrake:
    """Fewer in flight while rejections come, but never fewer than were carried all the while; one while only they come.

    An upstream with a rate limit rejects whatever is above it, however few are in flight. To shrink on and on would
    lose what it does take, so the mean number in flight of the last minute's answers (Little's law) is the least. And
    once its minute's share is used up it rejects all: then one request at a time asks whether the next has begun.
    """

    last_rejection_s: float = -math.inf
    closed: bool = False
    """Nothing but rejections came for a second."""
    _rejections: deque[float] = field(default_factory=deque)
    _carried: deque["_Second"] = field(default_factory=deque)
    _second_ends_s: float = -math.inf
    _first_reply_s: float | None = None
    _last_reply_s: float = -math.inf
    _cut_at_s: float = -math.inf
    _peak: float = 0.0
    """The most that was carried over any whole minute of late."""
    _peak_before: float = 0.0
    _peak_since_s: float = -math.inf

    def note_replies(self, now_s: float, duration_s: float) -> None:
        """Requests were taken and answered, which took so long together."""
        self._last_reply_s = now_s
        if now_s < self._second_ends_s:
            self._carried[-1].duration_s += duration_s
            return
        if self._first_reply_s is None:
            self._first_reply_s = now_s - duration_s
        second = math.floor(now_s)
        self._second_ends_s = second + 1.0
        self._carried.append(_Second(second, duration_s))
        while self._carried[0].begins_s <= second - _SPAN_S:
            self._carried.popleft()

    def note_rejection(self, now_s: float) -> None:
        """A request was answered 429 or 503."""
        self._rejections.append(now_s)
        self.last_rejection_s = now_s

    def mean_carried(self, now_s: float) -> float:
        """Requests in flight on average over the last minute, those that were answered in the end."""
        if self._first_reply_s is None:
            return 0.0
        duration_s = sum(one.duration_s for one in self._carried if one.begins_s > now_s - _SPAN_S)
        return duration_s / min(float(_SPAN_S), max(_WINDOW_S, now_s - self._first_reply_s))

    def choose(self, now_s: float, limit: int, *, starting: bool) -> int:
        """The limit from now on; to be called at each tick. `starting`: it was reached in large steps."""
        self._note_peak(now_s)
        while self._rejections and self._rejections[0] <= now_s - _WINDOW_S:
            self._rejections.popleft()
        if len(self._rejections) < _LEAST_REJECTIONS:
            return limit
        self.closed = self._last_reply_s < now_s - _WINDOW_S
        if self.closed or now_s - self._cut_at_s < _WINDOW_S:
            return limit
        self._cut_at_s = now_s
        cut = math.floor(limit * (_FIRST_FACTOR if starting else _FACTOR))
        return min(limit, max(1, cut, math.ceil(self.mean_carried(now_s))))

    def reopen(self, now_s: float) -> int:
        """The limit after an answer that ended a closed time: what spreads the requests over the next window."""
        self.closed = False
        # The first answer may come more than a minute after the last window's, when the mean has forgotten them.
        carried = max(self.mean_carried(now_s), self._peak, self._peak_before)
        return max(1, math.ceil(_REOPENED_SHARE * carried))

    def _note_peak(self, now_s: float) -> None:
        if self._first_reply_s is None or now_s - self._first_reply_s < _SPAN_S:
            return
        if now_s - self._peak_since_s >= _SPAN_S:
            self._peak_before, self._peak, self._peak_since_s = self._peak, 0.0, now_s
        self._peak = max(self._peak, self.mean_carried(now_s))
