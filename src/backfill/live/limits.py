"""How many live requests and tokens each key may use a minute. Batches never come here."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from backfill.api_key import Caller
from backfill.config import LiveConfig
from backfill.live.token_bucket import TokenBucket

__all__ = ["Admission", "LiveLimits"]

# A key that was not seen while so many others were is counted anew.
_CALLERS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request may go on, and what is left, as OpenAI's headers tell it."""

    headers: dict[str, str]
    refusal: str = ""
    """Why it may not; empty if it may."""


class _Buckets:
    """Of one key; None where there is no limit."""

    def __init__(self, requests_per_minute: int, tokens_per_minute: int, now_s: float) -> None:
        self.requests = TokenBucket(requests_per_minute, now_s) if requests_per_minute else None
        self.tokens = TokenBucket(tokens_per_minute, now_s) if tokens_per_minute else None
        self.limits = (requests_per_minute, tokens_per_minute)


class LiveLimits:
    """The buckets of all keys."""

    def __init__(self, config: LiveConfig, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._config = config
        self._clock = clock
        self._buckets: OrderedDict[str, _Buckets] = OrderedDict()

    def admit(self, caller: Caller, tokens: int) -> Admission:
        """Take one request and so many tokens, or say why not."""
        buckets = self._find(caller)
        if buckets is None:
            return Admission({})
        now_s = self._clock()
        for kind, bucket, amount in (("requests", buckets.requests, 1), ("tokens", buckets.tokens, tokens)):
            wait_s = bucket.wait_s(amount, now_s) if bucket is not None else 0.0
            if bucket is not None and wait_s > 0:
                asked = "" if kind == "requests" else f", about {amount} asked for"
                message = (
                    f"Rate limit of this key reached: {bucket.per_minute} {kind} a minute, "
                    f"{bucket.remaining(now_s)} left{asked}. Try again in {_tell_s(wait_s)}."
                )
                again = {
                    "x-should-retry": "true",
                    "retry-after": str(max(1, math.ceil(wait_s))),
                    "retry-after-ms": str(_ms(wait_s)),
                }
                return Admission(_show(buckets, now_s) | again, message)
        if buckets.requests is not None:
            buckets.requests.take(1, now_s)
        if buckets.tokens is not None:
            buckets.tokens.take(tokens, now_s)
        return Admission(_show(buckets, now_s))

    def counts_tokens(self, caller: Caller) -> bool:
        """Whether there is a limit on the key's tokens."""
        return self._limits_of(caller)[1] > 0

    def correct(self, caller: Caller, more_tokens: int) -> None:
        """Take so many tokens more than was thought, or give so many back if negative."""
        buckets = self._find(caller)
        if buckets is not None and buckets.tokens is not None:
            buckets.tokens.take(more_tokens, self._clock())

    def _limits_of(self, caller: Caller) -> tuple[int, int]:
        own, config = caller.limits, self._config
        requests = config.requests_per_minute if own.requests_per_minute is None else own.requests_per_minute
        tokens = config.tokens_per_minute if own.tokens_per_minute is None else own.tokens_per_minute
        return requests, tokens

    def _find(self, caller: Caller) -> _Buckets | None:
        limits = self._limits_of(caller)
        if not any(limits):
            return None
        # A key of the settings has no id; its owner is made of it alone.
        name = caller.key_id or caller.owner
        buckets = self._buckets.get(name)
        if buckets is None or buckets.limits != limits:
            self._buckets[name] = buckets = _Buckets(*limits, self._clock())
            if len(self._buckets) > _CALLERS_KEPT:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return buckets


def _show(buckets: _Buckets, now_s: float) -> dict[str, str]:
    headers: dict[str, str] = {}
    for kind, bucket in (("requests", buckets.requests), ("tokens", buckets.tokens)):
        if bucket is not None:
            headers[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining(now_s))
            headers[f"x-ratelimit-reset-{kind}"] = _tell_s(bucket.reset_s(now_s))
    return headers


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _tell_s(seconds: float) -> str:
    """As OpenAI writes it: 6m0s, 1.5s, 20ms."""
    ms = _ms(seconds)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    return f"{minutes}m{rest_ms / 1000:g}s" if minutes else f"{rest_ms / 1000:g}s"
