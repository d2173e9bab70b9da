"""Finds how many requests in flight pay from replies alone, for engines without gauges. Pure.

An engine queues what it cannot run, so latency grows with the length of answers and with our own queue and says little
by itself (Netflix's Gradient2 on latency stops far too low where answers differ in length). What counts is the work
done per second. By Little's law it is the mean number of requests in flight times work per request-second, and that
quotient, the sum of the work of some replies over the sum of their durations, is known to a few per cent after some
tens of replies, because a long answer also takes long.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import compress
from operator import mul

from backfill.dispatch.replies import Replies

__all__ = ["Climb"]

_FIRST_FACTOR = 4
"""From 16 to 2,000 in four round trips: a batch of 2 s requests fills 2,000 places in 8 s, doubling takes 14 s."""
_FACTOR = 1.4
_FINE_FACTOR = 1.15
"""Once steps of `_FACTOR` lead nowhere: a probe downwards costs work as long as it lasts."""
_LINEAR_SHARE = 0.5
"""Of the work that as many more requests would bring at no loss: from here on the engine still scales."""
_WORTH_KEEPING = 1.1
"""More work than this times as much makes the last large step worth keeping."""
_CHANGE = 0.015
"""More work by this share makes a larger number pay, less work by it makes a smaller one not pay."""
_CHANGED = 0.15
"""The engine itself has changed when its work at the same number differs by so much."""
_ERROR = 0.015
"""A measurement ends when its standard error is this share of its value."""
_CLEAR_ERRORS = 3.0
"""Or when it is so many errors off what it is compared with, and they are no more than `_ROUGH_ERROR`."""
_ROUGH_ERROR = 0.06
_LEAST_REPLIES = 16
_LEAST_S = 2.0
_REST_S = 30.0
"""Between two probes at first; twice as long after each that found nothing."""
_LONGEST_REST_S = 240.0
_QUICK_S = 0.01
_QUICK_LEAST = 64
"""So many in flight, if the engine is through with them in `_QUICK_S`, are never too many: the queue is short, and with
fewer our own loop wakes up for each reply alone, which made a request 10 % dearer at 16 and 20 % at 8."""


class _Step(Enum):
    START = auto()
    """Growing as fast as replies come back."""
    HOLD = auto()
    """What is known to pay; its work is measured."""
    UP = auto()
    """Trying more."""
    DOWN = auto()
    """Trying fewer."""


@dataclass(slots=True)
class _Measurement:
    """Replies to requests sent since a moment."""

    since_s: float
    replies: int = 0
    work: float = 0.0
    duration_s: float = 0.0
    work_squared: float = 0.0
    work_duration: float = 0.0
    duration_squared: float = 0.0
    ended: int = 0
    """Replies that came since then, whenever they were sent."""
    ended_work: float = 0.0

    def add(self, work: Sequence[float], duration_s: Sequence[float]) -> None:
        self.replies += len(work)
        self.work += sum(work)
        self.duration_s += sum(duration_s)
        self.work_squared += _sum_products(work, work)
        self.work_duration += _sum_products(work, duration_s)
        self.duration_squared += _sum_products(duration_s, duration_s)

    def estimate(self, now_s: float, limit: int) -> tuple[float, float]:
        """Work per second with `limit` in flight, and its standard error as a share of it.

        Two estimates, of which the surer counts. By Little's law: best where the engine queues nothing, as a reply's
        work and duration go together; its error is that of a ratio estimator (Cochran, Sampling Techniques, 6.4).
        And by counting: best where it queues; what is off is the work under way at both ends.
        """
        if self.work <= 0 or self.duration_s <= 0 or self.ended_work <= 0:
            return 0.0, math.inf
        rate = self.work / self.duration_s
        residual = self.work_squared - 2 * rate * self.work_duration + rate * rate * self.duration_squared
        by_rate = (math.sqrt(max(residual, 0.0)) / self.work, limit * rate)
        by_count = (math.sqrt(limit) / self.ended, self.ended_work / max(now_s - self.since_s, 1e-9))
        error, work = min(by_rate, by_count)
        return work, error


@dataclass(slots=True)
class Climb:
    """A climb on measured throughput: up while it pays, down while it costs nothing, and now and then a probe."""

    ceiling: int
    limit: int
    settled: bool = False
    """More in flight was tried and brought nothing."""
    _step: _Step = _Step.START
    _known: dict[int, float] = field(default_factory=dict)
    """Work per second at numbers that were measured while the engine was as it is."""
    _now: _Measurement = field(default_factory=lambda: _Measurement(-math.inf))
    _used: bool = True
    """As many were in flight as allowed when that was last looked at."""
    _has_tokens: bool = False
    _base: int = 0
    _rates: tuple[float, ...] = ()
    """Work and replies per request-second in the last round of the start."""
    _rest_s: float = _REST_S
    _rested_at_s: float = 0.0
    _next_up: bool = True
    _factor: float = _FACTOR
    _failures: int = 0
    """Probes in a row that found nothing."""
    _mean_s: float = 0.0
    _is_steered: bool = False
    """Another signal has set the limit: it knows why so few."""
    _scales_to_ceiling: bool = False
    """The start ended at the ceiling, with an engine that still gave more for more."""

    @property
    def starting(self) -> bool:
        """The number was reached in large steps and has not held yet."""
        return self._step is _Step.START

    def note_replies(self, replies: Replies) -> None:
        """Count replies; a round of the fast start may end with them."""
        if not self._has_tokens and any(replies.work):
            self._has_tokens = True
            self._now = _Measurement(self._now.since_s)
        self._mean_s = replies.follow(self._mean_s)
        work: Sequence[float] = replies.work if self._has_tokens else (1.0,) * replies.count
        durations_s: Sequence[float] = replies.durations_s
        seen = self._now
        if replies.last_s < seen.since_s:
            return
        seen.ended += replies.count
        seen.ended_work += sum(work)
        since_s = seen.since_s - 1e-9
        if min(replies.started_s) < since_s:
            is_sent_since = [started_s >= since_s for started_s in replies.started_s]
            work, durations_s = [*compress(work, is_sent_since)], [*compress(durations_s, is_sent_since)]
        if work:
            seen.add(work, durations_s)
            if self._step is _Step.START and self._used and seen.replies >= max(4, self.limit // 4):
                self._end_round(replies.last_s)

    def tick(self, now_s: float, *, used: bool) -> None:
        """Judge the measurement if it has said enough; `used`: as many requests were in flight as allowed."""
        self._used = used
        if not used:
            # Fewer in flight than the number under test say nothing of it.
            self._measure_anew(now_s)
            return
        if self._step is _Step.START:
            return
        if self.limit < self._least:
            self._known.clear()
            self._hold(now_s, self._least)
        work, error = self._now.estimate(now_s, self.limit)
        if self._is_enough(now_s, work, error):
            self._judge(now_s, work, error)

    def resume_at(self, limit: int, now_s: float) -> None:
        """Go on from a number that another signal has set."""
        if limit != self.limit or self._step is _Step.START:
            self.limit = limit
            self._is_steered = True
            self._scales_to_ceiling = False
            self._known.clear()
            self._hold(now_s, limit)

    @property
    def _least(self) -> int:
        """No fewer are tried."""
        is_quick = self._mean_s * _QUICK_LEAST < _QUICK_S * self.limit
        return min(self.ceiling, _QUICK_LEAST) if is_quick and not self._is_steered else 1

    def _is_enough(self, now_s: float, work: float, error: float) -> bool:
        seen = self._now
        # Short answers come first: only after a whole round trip are the replies a fair sample.
        if seen.replies < _LEAST_REPLIES or now_s - seen.since_s < max(_LEAST_S, 1.5 * self._mean_s):
            return False
        if error <= _ERROR or seen.replies >= 4 * self.limit + 100:
            return True
        before = self._known.get(self._base if self._step in (_Step.UP, _Step.DOWN) else self.limit)
        return before is not None and error <= _ROUGH_ERROR and abs(work / before - 1) > _CLEAR_ERRORS * error

    def _end_round(self, now_s: float) -> None:
        """Go on in large steps while the engine scales, else climb with care."""
        seen, before = self._now, self._base
        rates = (seen.work / max(seen.duration_s, 1e-9), seen.replies / max(seen.duration_s, 1e-9))
        # A round is short: where length and duration of answers are unrelated, only the answers themselves count.
        slowdown = max((now / then for now, then in zip(rates, self._rates, strict=False) if then > 0), default=1.0)
        growth = self.limit / before if before else 1.0
        scales = growth * slowdown - 1 >= _LINEAR_SHARE * (growth - 1)
        if self.limit < self.ceiling and scales:
            self._base, self._rates = self.limit, rates
            self.limit = min(self.ceiling, self.limit * _FIRST_FACTOR)
            self._now = _Measurement(now_s)
            return
        if before and scales and self.limit == self.ceiling:
            # All that is allowed pays: a probe downwards would only cost, so none is made soon.
            self._factor, self._failures, self._rest_s = _FINE_FACTOR, 2, _LONGEST_REST_S
            self._scales_to_ceiling = True
        kept = self.limit if not before or growth * slowdown > _WORTH_KEEPING else before
        self._hold(now_s, max(kept, self._least))

    def _judge(self, now_s: float, work: float, error: float) -> None:
        match self._step:
            case _Step.UP:
                self._judge_more(now_s, work, error)
            case _Step.DOWN:
                self._judge_fewer(now_s, work, error)
            case _:
                self._judge_held(now_s, work)

    def _judge_more(self, now_s: float, work: float, error: float) -> None:
        if work >= self._known[self._base] * (1 + max(_CHANGE, error)):
            self._known[self.limit] = work
            self._factor, self._failures, self._rest_s = _FACTOR, 0, _REST_S
            self._go_on(now_s, up=True)
        else:
            self._give_up(now_s, next_up=False)

    def _judge_fewer(self, now_s: float, work: float, error: float) -> None:
        if work >= self._known[self._base] * (1 - max(_CHANGE, error)):
            # The reference stays the best that was seen, or many small losses would add up.
            self._known[self.limit] = max(work, self._known[self._base])
            self.settled, self._failures = True, 0
            self._go_on(now_s, up=False)
        else:
            self._give_up(now_s, next_up=True)

    def _give_up(self, now_s: float, *, next_up: bool) -> None:
        """Go back to what the probe started from; rest once both directions were tried in fine steps."""
        self.settled, self._next_up = True, next_up
        self._failures += 1
        if self._failures >= 2 and self._factor == _FACTOR:
            self._factor, self._failures = _FINE_FACTOR, 0
        elif self._failures >= 2:
            self._rest_s = min(_LONGEST_REST_S, self._rest_s * 2)
        self._hold(now_s, self._base)

    def _judge_held(self, now_s: float, work: float) -> None:
        before = self._known.get(self.limit)
        self._known = {self.limit: work}
        is_first = before is None and not self._scales_to_ceiling
        if is_first or (before is not None and abs(work / before - 1) > _CHANGED):
            # Nothing is known yet, or no longer: find out at once. Less work than before means a queue, so go down.
            self._factor, self._failures, self._rest_s = _FACTOR, 0, _REST_S
            self.settled = False
            self._next_up = before is None or work > before
        elif self._failures >= 2 and now_s - self._rested_at_s < self._rest_s:
            self._measure_anew(now_s)
            return
        if not self._probe(now_s, up=self._next_up) and not self._probe(now_s, up=not self._next_up):
            self._measure_anew(now_s)

    def _probe(self, now_s: float, *, up: bool) -> bool:
        """Try the next number up or down; False where there is none."""
        base = self.limit
        factor = self._factor
        limit = min(self.ceiling, math.ceil(base * factor)) if up else max(self._least, math.floor(base / factor))
        if limit == base:
            self._failures += 1
            return False
        self._step, self._base, self.limit = (_Step.UP if up else _Step.DOWN), base, limit
        self._measure_anew(now_s)
        return True

    def _go_on(self, now_s: float, *, up: bool) -> None:
        if not self._probe(now_s, up=up):
            self._hold(now_s, self.limit)

    def _hold(self, now_s: float, limit: int) -> None:
        self._step, self.limit, self._rested_at_s = _Step.HOLD, limit, now_s
        self._measure_anew(now_s)

    def _measure_anew(self, now_s: float) -> None:
        # What is sent in the first round trip meets the queue of the number before; the start cannot wait for that.
        self._now = _Measurement(now_s if self._step is _Step.START else now_s + self._mean_s)


def _sum_products(first: Iterable[float], second: Iterable[float]) -> float:
    total: float = sum(map(mul, first, second))
    return total
