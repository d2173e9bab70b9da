"""How several processes keep one limit together, without asking each other before each request. Pure.

Each counts what all let in, as far as it has heard. Between two times at which it hears of the others it lets in no
more than its part of a whole minute: so together they let in a minute's worth in a burst, and what was let in beyond
is paid back. A client that always comes to the same process has its whole minute all the same, a few seconds later.
"""

from collections import deque
from collections.abc import Mapping

from backfill.live.token_bucket import TokenBucket
from backfill.status import LiveUse

__all__ = ["HeardUse", "Portion"]

_HISTORY_S = 60.0
# Whoever hears nothing for so long goes on as if there were nobody else.
_PATIENCE_S = 5.0
# However many there are, so much that one alone can let in all of a minute while it hears nothing.
_LEAST_PART = _PATIENCE_S / 60.0


class Portion:
    """What one process lets in of a key's requests, or tokens, until it has heard of the others again."""

    def __init__(self, now_s: float) -> None:
        self._taken = 0.0
        self._began_s = now_s

    def has_room(self, amount: float, per_minute: int, processes: int, now_s: float) -> bool:
        """Whether so much may be let in now; what is more than a portion may come first."""
        if now_s >= self._began_s + _PATIENCE_S:
            self.renew(now_s)
        part = max(1.0, per_minute * max(1 / processes, _LEAST_PART))
        return processes == 1 or self._taken <= 0 or self._taken + amount <= part

    def take(self, amount: float) -> None:
        """So much was let in, or is given back if negative."""
        self._taken += amount

    def renew(self, now_s: float, *, heard_since_s: float = float("inf")) -> None:
        """The others have told of themselves since some time, if that is after this portion began."""
        if heard_since_s >= self._began_s:
            self._taken, self._began_s = 0.0, now_s


class HeardUse:
    """What other processes let in."""

    def __init__(self) -> None:
        self.processes = 1
        """How many let requests in, with this one."""
        self._heard: dict[str, dict[str, LiveUse]] = {}
        """Process -> key -> what it told last."""
        self._of_late: dict[str, deque[tuple[float, int, int]]] = {}
        """Key -> when something was heard of it, and how many requests and tokens."""

    def hear(self, told: Mapping[str, Mapping[str, LiveUse]], now_s: float) -> dict[str, LiveUse]:
        """Key -> what was let in elsewhere since they were heard before. What they did before that is their own."""
        fresh: dict[str, LiveUse] = {}
        for process, uses in told.items():
            before = self._heard.get(process)
            for key, use in uses.items():
                if before is not None:
                    more = _subtract(use, before.get(key, (0, 0)))
                    fresh[key] = (fresh.get(key, (0, 0))[0] + more[0], fresh.get(key, (0, 0))[1] + more[1])
        self._heard = {process: self._heard.get(process, {}) | dict(uses) for process, uses in told.items()}
        self.processes = 1 + len(told)
        self._keep(fresh, now_s)
        return fresh

    def fill(self, key: str, requests_per_minute: int, tokens_per_minute: int, now_s: float) -> list[TokenBucket]:
        """Buckets of requests and of tokens as they stand after what others let in of late."""
        of_late = self._of_late.get(key, ())
        began_s = min((at_s for at_s, _, _ in of_late), default=now_s)
        buckets = [TokenBucket(per_minute, began_s) for per_minute in (requests_per_minute, tokens_per_minute)]
        for at_s, *amounts in of_late:
            for bucket, amount in zip(buckets, amounts, strict=True):
                bucket.take(amount, at_s)
        return buckets

    def _keep(self, fresh: Mapping[str, LiveUse], now_s: float) -> None:
        for key, (requests, tokens) in fresh.items():
            if requests or tokens:
                self._of_late.setdefault(key, deque()).append((now_s, requests, tokens))
        for key, entries in [*self._of_late.items()]:
            while entries and entries[0][0] < now_s - _HISTORY_S:
                entries.popleft()
            if not entries:
                del self._of_late[key]


def _subtract(use: LiveUse, before: LiveUse) -> LiveUse:
    # Requests only grow: fewer than before are those of one that has begun to count anew.
    return use if use[0] < before[0] else (use[0] - before[0], use[1] - before[1])
