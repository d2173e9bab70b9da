"""What came back in one turn of the event loop. Pure; times are those of the event loop, in seconds.

A quick engine's replies come by tens in each turn. Whoever learns from them does so once for all of them, in sums that
C makes: one by one it costs three times as much.
"""

from collections.abc import Sequence
from operator import sub

from backfill.batch import Usage

__all__ = ["Replied", "Replies"]

Replied = tuple[float, float, Usage]
"""When a request was sent, when its answer or refusal came, and what it used."""

_WEIGHT_OF_LAST = 0.05


class Replies:
    """Answers and refusals, in the order in which they came."""

    __slots__ = ("count", "durations_s", "ended_s", "last_s", "started_s", "sum_s", "usage", "work")

    def __init__(self, replied: Sequence[Replied]) -> None:
        """At least one."""
        self.started_s: tuple[float, ...]
        self.ended_s: tuple[float, ...]
        usages: tuple[Usage, ...]
        self.started_s, self.ended_s, usages = zip(*replied, strict=True)
        self.count = len(replied)
        self.last_s = self.ended_s[-1]
        """When the last one came."""
        self.durations_s: tuple[float, ...] = tuple(map(sub, self.ended_s, self.started_s))
        self.sum_s = sum(self.durations_s)
        prompt_tokens, completion_tokens, cached_tokens, audio_ms = zip(*usages, strict=True)
        self.usage = Usage(sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(audio_ms))
        """Of all of them."""
        self.work: tuple[int, ...] = completion_tokens
        """How much each of them made an engine write or hear, in tokens."""
        if self.usage.audio_ms:
            self.work = tuple(usage.completion_tokens or usage.audio_tokens for usage in usages)

    def follow(self, mean_s: float) -> float:
        """A moving mean of durations with these in it; 0 stands for none before."""
        own_s = self.sum_s / self.count
        kept: float = (1 - _WEIGHT_OF_LAST) ** self.count
        return own_s + (mean_s - own_s) * kept if mean_s else own_s
