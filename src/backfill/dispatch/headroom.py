"""How much of an engine batches leave to live requests. Pure: times are given, nothing waits here.

Live requests go first. While one of them waits for its first token, no line is sent: what computes prompts computes
theirs. Besides, a share of the engine's places is kept free as long as live requests are about, as large as it must be
for their first token to come about as fast as without batches: additive increase, multiplicative decrease (Chiu and
Jain, 1989) on the time to first token over its value without batches. Where no first token shows, the engine's own
queue is looked at. Without live requests nothing is kept free.
"""

import math
from collections.abc import Iterable

from backfill.engines import FirstToken, Presence

__all__ = ["Headroom"]

_TARGETS = (1.33, 1.55)
"""Time to first token over that without batches: below, batches take some places back; above, they give some up."""
_TARGETS_OF_STEPS = (1.7, 2.0)
"""The same where a live request waits for no more than a step that is computed: most of what it feels of a batch is
that one step, which fewer lines hardly shorten, and a burst of live requests, which waits longest, feels it once."""
_FIRST_SHARE = 0.5
"""Before anything is known."""
_MOST_DECREASE = 0.8
"""One look leaves at least this much of it."""
_INCREASE = 0.01
_DECREASE_PERIOD_S = 0.5
"""What was sent before a decrease is still computed: its effect shows no earlier."""
_QUEUE_DECREASE = 0.7
_SHORT_QUEUE = 0.05
"""Over those that run: as many come in while a step is computed."""
_UNMEASURED_SHARE = 0.5
"""No more than this while there are live requests whose first token does not show."""
_SMOOTHING = 0.1
_LINGER_S = 10.0
"""So long after the last live request there may be another."""
_GROWTH = 1.3
"""A tick, once they are gone: from a tenth to all in two seconds."""
_KEPT_PART = 4
_KEPT_BESIDE_ABLE = 1
"""Where lines in flight can leave: the first live request of a burst need not wait until one has."""
_GATE_S = 0.25
"""For how long an arrival holds lines back, where it is not known how long a first token takes."""
_GATE_FACTOR = 3.0
_LEARNING = 0.2
_DRIFT = 1.01
"""A least value that was seen long ago may be too small by now."""


class Headroom:
    """The share of one replica that batches may use, and whether they may send now."""

    def __init__(self) -> None:
        self.is_shared = False
        """Live requests are about, or were until a moment ago."""
        self.share = 1.0
        """Of the places that batches had alone."""
        self.waits_for_steps_only = False
        """Of a batch a live request there feels the step that is computed when it comes, and no queue."""
        self._learned = _FIRST_SHARE
        self._last_live_s = -math.inf
        self._arrived_at_s = -math.inf
        self._decreased_at_s = -math.inf
        self._ratio = 1.0
        self._peak = 0
        self._peak_at_s = -math.inf
        self._baseline = _Baseline()

    def note_arrival(self, now_s: float, live: int) -> None:
        """A live request has come; with it there are so many."""
        self._arrived_at_s = now_s
        self._note_live(now_s, live)

    def note_first_tokens(self, firsts: Iterable[FirstToken]) -> None:
        """First tokens came."""
        for first in firsts:
            # One that waited for other live requests says nothing of batches.
            if not first.is_alone:
                continue
            known_s = self._baseline.learn(first, is_free=first.batches == 0)
            if first.batches:
                self._ratio += (first.duration_s / known_s - self._ratio) * _SMOOTHING
                self._judge(first.at_s)

    def note_gauges(self, now_s: float, others: int, running: int, waiting: int) -> None:
        """By its own gauges the engine has `others` requests that are not ours, and so many run and wait in it."""
        if others <= 0:
            return
        self._note_live(now_s, others)
        if waiting > max(1, _SHORT_QUEUE * running):
            self._decrease(now_s, _QUEUE_DECREASE)
        elif self.share < _UNMEASURED_SHARE:
            self._increase()

    def tick(self, now_s: float, live: int) -> None:
        """Look at the time, a few times a second; there are so many live requests."""
        if not self.is_shared:
            return
        if live:
            self._last_live_s = now_s
        elif now_s - self._last_live_s > _LINGER_S:
            self.share *= _GROWTH
            if self.share >= 1:
                self.share, self.is_shared, self._peak = 1.0, False, 0

    def allow(self, now_s: float, limit: int, ceiling: int, presence: Presence, able: int = 0) -> int:
        """Requests of batches in flight at most, of `limit`.

        `ceiling`: what the engine computes side by side at most. Of that live requests keep the places that they had
        at their peak, a quarter at most; less where so many requests of batches are `able` to leave at once.
        """
        if not self.is_shared:
            return limit
        if presence.waiting and now_s - self._arrived_at_s < self._gate_s:
            return 0
        peak = self._peak if now_s - self._peak_at_s <= 2 * _LINGER_S else 1
        # Of a burst the others get the places that come free: no line is sent before them.
        kept = min(peak, max(1, ceiling // _KEPT_PART))
        if able:
            kept = max(min(kept, _KEPT_BESIDE_ABLE), presence.running)
        return max(1, min(limit, math.ceil(limit * self.share), ceiling - kept))

    @property
    def _targets(self) -> tuple[float, float]:
        return _TARGETS_OF_STEPS if self.waits_for_steps_only else _TARGETS

    @property
    def _gate_s(self) -> float:
        return max(_GATE_S, _GATE_FACTOR * self._baseline.longest_s)

    def _note_live(self, now_s: float, live: int) -> None:
        self._last_live_s = now_s
        if live >= self._peak or now_s - self._peak_at_s > 2 * _LINGER_S:
            self._peak, self._peak_at_s = live, now_s
        if not self.is_shared:
            self.is_shared, self.share = True, self._learned

    def _judge(self, now_s: float) -> None:
        calm, target = self._targets
        if self._ratio > target:
            self._decrease(now_s, max(_MOST_DECREASE, target / self._ratio))
        elif self._ratio < calm:
            self._increase()

    def _decrease(self, now_s: float, factor: float) -> None:
        if now_s - self._decreased_at_s >= _DECREASE_PERIOD_S:
            self._decreased_at_s = now_s
            self.share = self._learned = max(0.01, self.share * factor)
            # What is known was seen with the share before.
            self._ratio = (self._ratio + self._targets[1]) / 2

    def _increase(self) -> None:
        self.share = self._learned = min(1.0, self.share + _INCREASE)


class _Baseline:
    """How long a first token takes without batches, by the size of requests."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """Of those known."""
        self._free: dict[int, float] = {}
        self._least: dict[int, float] = {}

    def learn(self, first: FirstToken, *, is_free: bool) -> float:
        """Take one into account; gives what is known of its size, or the time itself where that is nothing.

        `is_free`: no batch was with the engine. As long as no such is known, the least that was seen stands for it.
        """
        size, took_s = first.size_bytes.bit_length(), max(first.duration_s, 1e-4)
        if is_free:
            known_s = self._free.get(size, took_s)
            # One that was held up by something else is not learned from at its full length.
            self._free[size] = known_s + (min(took_s, 3 * known_s) - known_s) * _LEARNING
        least_s = self._least.get(size, took_s)
        self._least[size] = min(took_s, least_s * _DRIFT)
        known_s = self._free.get(size, self._least[size])
        self.longest_s = max(self.longest_s * 0.99, known_s)
        return known_s
