"""The rate limit of a simulated upstream."""

__all__ = ["RateLimit"]

_WINDOW_S = 60.0


class RateLimit:
    """So many requests a minute in fixed windows, the first from time 0."""

    def __init__(self, requests_per_minute: int | None) -> None:
        self.requests_per_minute = requests_per_minute
        self._window = -1
        self._admitted = 0

    def admit(self, now_s: float) -> float | None:
        """None if one more is taken now, else the seconds until the next window."""
        if self.requests_per_minute is None:
            return None
        # Retry-After brings clients back on the border itself, where a rounding error must not count.
        window = int((now_s + 1e-6) // _WINDOW_S)
        if window != self._window:
            self._window, self._admitted = window, 0
        if self._admitted >= self.requests_per_minute:
            return (window + 1) * _WINDOW_S - now_s
        self._admitted += 1
        return None
