"""What one replica did, in all and over the last seconds. Times are those of the event loop, in seconds."""

from collections import deque

from backfill.dispatch.busy_time import BusyTime
from backfill.dispatch.replies import Replies

__all__ = ["Tally"]

_WINDOW_S = 5.0


class Tally:
    """Counts replies; `mark` closes a slice of time, from which rates are made."""

    def __init__(self) -> None:
        self.answered = 0
        self.lost = 0
        self.rate_limited = 0
        self.reused = 0
        self.preempted = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.audio_ms = 0
        self.busy = BusyTime()
        self.duration_s = 0.0
        """How long a request took of late, as a moving mean; 0 before the first reply."""
        self.requests_per_s = 0.0
        self.completion_tokens_per_s = 0.0
        self._marks: deque[tuple[float, int, int]] = deque()

    def add(self, replies: Replies) -> None:
        """Count replies."""
        self.answered += replies.count
        prompt_tokens, completion_tokens, cached_tokens, audio_ms = replies.usage
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cached_tokens += cached_tokens
        self.audio_ms += audio_ms
        self.duration_s = replies.follow(self.duration_s)
        self.busy.add(replies.started_s, replies.ended_s)

    def mark(self, now_s: float) -> None:
        """Set the rates anew, over the last five seconds."""
        marks = self._marks
        marks.append((now_s, self.answered, self.completion_tokens))
        while len(marks) > 2 and now_s - marks[1][0] >= _WINDOW_S:
            marks.popleft()
        then_s, answered, tokens = marks[0]
        if now_s > then_s:
            self.requests_per_s = (self.answered - answered) / (now_s - then_s)
            self.completion_tokens_per_s = (self.completion_tokens - tokens) / (now_s - then_s)
