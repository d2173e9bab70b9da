"""When nothing, or no more than a probe, is sent to a replica. Times are those of the event loop, in seconds."""

import random

from backfill.config import DispatchConfig

__all__ = ["Breaker"]

# Losses in a row after which a replica is given no more lines that another one could take.
_LOSSES_IN_A_ROW = 5
# An upstream that says 429 and not for how long is asked again at least this often: a probe costs it nothing.
_RATE_LIMIT_PAUSE_MAX_S = 2.0


class Breaker:
    """A circuit breaker (M. Nygard, "Release It!", 2007): closed, open for a while, then half-open for one probe."""

    def __init__(self, policy: DispatchConfig, dice: random.Random) -> None:
        self._policy = policy
        self._dice = dice
        self._losses = 0
        self._setbacks = 0
        self._paused_until_s = 0.0
        self.is_probing = False
        """Whether one request at a time is to find out if the replica is well again."""

    def pause_left_s(self, now_s: float) -> float:
        """Seconds in which nothing is to be sent; 0 or less if there is no pause."""
        return self._paused_until_s - now_s

    def note_reply(self, sent_at_s: float) -> None:
        """The engine answered or refused a request that was sent at this time; of several, the last one's counts."""
        self._losses = 0
        if sent_at_s >= self._paused_until_s:
            self._setbacks = 0
            self.is_probing = False

    def note_loss(self, now_s: float, sent_at_s: float, *, has_alternative: bool) -> None:
        """A request was lost; with another replica at hand, several in a row open the breaker, or a lost probe."""
        self._losses += 1
        if has_alternative and (self.is_probing or self._losses >= _LOSSES_IN_A_ROW):
            self.note_outage(now_s, sent_at_s)

    def note_outage(self, now_s: float, sent_at_s: float) -> None:
        """The replica cannot be used now: wait before it is tried again, longer each time until it answers."""
        if sent_at_s < self._paused_until_s:
            return  # of many that find out together the first counts
        self._open(now_s, self._policy.backoff_max_s)
        self.is_probing = True

    def note_rate_limit(self, now_s: float, sent_at_s: float, retry_after_s: float | None) -> None:
        """The engine answered 429. What it asks for is obeyed; asked for nothing, it is probed every now and then."""
        if retry_after_s is not None:
            asked_s = min(retry_after_s, self._policy.retry_after_max_s)
            self._paused_until_s = max(self._paused_until_s, now_s + asked_s)
        elif sent_at_s >= self._paused_until_s:
            self._open(now_s, min(_RATE_LIMIT_PAUSE_MAX_S, self._policy.backoff_max_s))
            self.is_probing = True

    def _open(self, now_s: float, longest_s: float) -> None:
        # 2.0 ** 1024 overflows; the ceiling is reached long before.
        ceiling_s = min(longest_s, self._policy.backoff_s * 2.0 ** min(self._setbacks, 64))
        self._setbacks += 1
        self._losses = 0
        self._paused_until_s = max(self._paused_until_s, now_s + self._dice.uniform(ceiling_s / 2, ceiling_s))
