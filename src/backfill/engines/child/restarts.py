"""How soon an engine that ended may be started again."""

__all__ = ["RestartPace"]

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_STEADY_S = 60.0


class RestartPace:
    """The first restart is free; each further one waits twice as long, from 0.5 s to 30 s.

    An engine that was up for a minute begins anew. Times are those of the event loop, in seconds.
    """

    def __init__(self) -> None:
        self._ends = 0
        self._ended_at_s = 0.0

    def note_end(self, now_s: float, up_s: float) -> None:
        """The engine ended, or failed to start, after `up_s` seconds of service."""
        self._ends = 1 if up_s >= _STEADY_S else self._ends + 1
        self._ended_at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next start may begin."""
        if self._ends <= 1:
            return 0.0
        # The exponent is bounded so that a week of failures does not overflow a float.
        pause_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._ends - 2, 16))
        return max(0.0, self._ended_at_s + pause_s - now_s)
