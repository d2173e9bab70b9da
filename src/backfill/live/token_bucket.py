"""A token bucket: so much a minute, saved up for a minute at most. Pure; times are seconds of any clock."""

__all__ = ["TokenBucket"]

_MINUTE_S = 60.0


class TokenBucket:
    """Full at first. It may be overdrawn by what is known too late, and then gives nothing until that is paid back."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def remaining(self, now_s: float) -> int:
        """Whole units that may be taken now."""
        return max(0, int(self._fill(now_s)))

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` may be taken; more than a full bucket waits for a full one."""
        lacking = min(amount, self.per_minute) - self._fill(now_s)
        # A billionth: what was filled up to a round number may lack that much.
        return max(0.0, lacking - 1e-9) * _MINUTE_S / self.per_minute

    def reset_s(self, now_s: float) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.per_minute - self._fill(now_s)) * _MINUTE_S / self.per_minute

    def take(self, amount: float, now_s: float) -> None:
        """Take what `wait_s` said may be taken, or correct it: a negative amount is given back."""
        self._level = min(float(self.per_minute), self._fill(now_s) - amount)

    def _fill(self, now_s: float) -> float:
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s += passed_s
        self._level = min(float(self.per_minute), self._level + passed_s * self.per_minute / _MINUTE_S)
        return self._level
