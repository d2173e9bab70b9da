"""How many requests a replica gets at once: found while it works. Pure: times are given, nothing waits here.

Three signals, the surest first: rejections, the engine's own gauges, and, where it has none, the work it gets done.
"""

from backfill.dispatch.concurrency_climb import Climb
from backfill.dispatch.concurrency_gauges import GaugeFollower
from backfill.dispatch.concurrency_rejections import RejectionBrake
from backfill.dispatch.replies import Replies
from backfill.engines import Gauges
from backfill.status import Bottleneck

__all__ = ["ConcurrencyController"]

_USED_SHARE = 0.8
"""Of the limit: so many in flight count as all, since some workers are between two requests."""
_CALM_S = 60.0
"""After a rejection nothing grows for so long: rate limits count by the minute."""
_CALM_WITH_GAUGES_S = 5.0
"""An engine that shows its queue is no upstream with a rate limit."""


class ConcurrencyController:
    """Finds the fewest requests in flight with which one replica gives all it can.

    Times are those of the event loop, in seconds. `limit` is read before each request, so it is a plain attribute.
    """

    def __init__(self, ceiling: int, first: int) -> None:
        self.limit = max(1, min(first, ceiling))
        """Requests in flight at most, now; from 1 to the ceiling."""
        self.bottleneck = Bottleneck.UNKNOWN
        """What keeps the replica from doing more, as far as replies and gauges tell."""
        self._ceiling = max(1, ceiling)
        self._climb = Climb(self._ceiling, self.limit)
        self._follower = GaugeFollower(self._ceiling, self.limit)
        self._brake = RejectionBrake()
        self._found = self.limit
        self._has_gauges = False

    def note_replies(self, replies: Replies) -> None:
        """Answers (or refusals, with 0 tokens) came."""
        brake, now_s = self._brake, replies.last_s
        brake.note_replies(now_s, replies.sum_s)
        if brake.closed:
            self._take(brake.reopen(now_s), now_s)
            self._set_limit()
        elif not self._has_gauges and now_s - brake.last_rejection_s >= _CALM_S:
            self._climb.note_replies(replies)
            self.limit = self._found = self._climb.limit

    def note_rejection(self, now_s: float) -> None:
        """The engine answered 429 or 503: it has too much to do."""
        self._brake.note_rejection(now_s)

    def tick(self, now_s: float, in_flight: int, gauges: Gauges, *, has_work: bool, is_shared: bool = False) -> None:
        """Look at the last moments and set `limit` anew; to be called some times a second while anything is in flight.

        `has_work` tells whether lines were there that the limit held back. Idle is not congestion: without work
        nothing is learned. Nor while live requests leave less of the engine than the limit (`is_shared`).
        """
        self._has_gauges = gauges.running is not None and gauges.waiting is not None
        self._take(self._brake.choose(now_s, self._found, starting=self._climb.starting), now_s)
        if is_shared:
            self._climb.tick(now_s, used=False)
            self._set_limit()
            self.bottleneck = Bottleneck.LIVE_TRAFFIC if has_work else Bottleneck.WORK
            return
        used = has_work and in_flight >= _USED_SHARE * self.limit
        if self._brake.closed:
            pass
        elif self._has_gauges:
            self._follower.limit = self._found
            may_grow = not self._is_calming(now_s)
            self._follower.tick(now_s, in_flight, gauges, used=used, may_grow=may_grow)
            self._found = self._follower.limit
            self._climb.resume_at(self._found, now_s)
        elif not self._is_calming(now_s):
            self._climb.tick(now_s, used=used)
            self._found = self._climb.limit
        self._set_limit()
        self.bottleneck = self._name_bottleneck(now_s, has_work=has_work)

    def _is_calming(self, now_s: float) -> bool:
        calm_s = _CALM_WITH_GAUGES_S if self._has_gauges else _CALM_S
        return now_s - self._brake.last_rejection_s < calm_s

    def _take(self, limit: int, now_s: float) -> None:
        """Let all signals go on from a limit that rejections have set."""
        limit = min(limit, self._ceiling)
        if limit != self._found:
            self._found = limit
            self._climb.resume_at(limit, now_s)
            self._follower.resume_at(limit)

    def _set_limit(self) -> None:
        self.limit = 1 if self._brake.closed else self._found

    def _name_bottleneck(self, now_s: float, *, has_work: bool) -> Bottleneck:
        if not has_work:
            return Bottleneck.WORK
        if self._is_calming(now_s):
            return Bottleneck.UPSTREAM_LIMIT
        if self._follower.queued if self._has_gauges else self._climb.settled:
            return Bottleneck.ENGINE
        return Bottleneck.CEILING if self.limit >= self._ceiling else Bottleneck.UNKNOWN
