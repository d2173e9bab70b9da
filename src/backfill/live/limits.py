"""How many live requests and tokens each key may use a minute. Batches never come here."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backfill.api_key import Caller
from backfill.config import LiveConfig
from backfill.live.shared_limit import HeardUse, Portion
from backfill.live.token_bucket import TokenBucket
from backfill.status import LiveUse

__all__ = ["Admission", "LiveLimits"]

# A key that was not seen while so many others were is counted anew.
_CALLERS_KEPT = 4096
_TOLD_FOR_S = 120.0
# When others will have been heard, usually.
_HEARD_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request may go on, and what is left, as OpenAI's headers tell it."""

    headers: dict[str, str]
    refusal: str = ""
    """Why it may not; empty if it may."""


class _Meter:
    """Of requests or of tokens: what is left of a key's limit, and of the part that this process may let in now."""

    def __init__(self, kind: str, bucket: TokenBucket, now_s: float) -> None:
        self.kind = kind
        self.bucket = bucket
        self.portion = Portion(now_s)

    def take(self, amount: float, now_s: float) -> None:
        self.bucket.take(amount, now_s)
        self.portion.take(amount)

    def wait_s(self, amount: float, processes: int, now_s: float) -> float:
        """Seconds until so much may be taken."""
        wait_s = self.bucket.wait_s(amount, now_s)
        if wait_s > 0 or self.portion.has_room(amount, self.bucket.per_minute, processes, now_s):
            return wait_s
        return _HEARD_AGAIN_S


class _Key:
    """What is counted of one key."""

    def __init__(self, limits: tuple[int, int], buckets: Sequence[TokenBucket], now_s: float) -> None:
        self.limits = limits
        self.requests, self.tokens = (
            _Meter(kind, bucket, now_s) if limit else None
            for kind, bucket, limit in zip(("requests", "tokens"), buckets, limits, strict=True)
        )
        self.let_in: LiveUse = (0, 0)
        """By this process, since it began to count."""
        self.used_at_s = now_s

    @property
    def meters(self) -> list[_Meter]:
        """Those that have a limit."""
        return [meter for meter in (self.requests, self.tokens) if meter is not None]

    def take(self, requests: int, tokens: int, now_s: float) -> None:
        """This process lets so much in."""
        self.let_in = (self.let_in[0] + requests, self.let_in[1] + tokens)
        self.used_at_s = now_s
        if self.requests is not None:
            self.requests.take(requests, now_s)
        if self.tokens is not None:
            self.tokens.take(tokens, now_s)

    def note_elsewhere(self, use: LiveUse, now_s: float) -> None:
        """Others let so much in."""
        for meter, amount in ((self.requests, use[0]), (self.tokens, use[1])):
            if meter is not None:
                meter.bucket.take(amount, now_s)


class LiveLimits:
    """The limits of all keys, and what is left of them."""

    def __init__(self, config: LiveConfig, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._config = config
        self._clock = clock
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._heard = HeardUse()

    def admit(self, caller: Caller, tokens: int) -> Admission:
        """Take one request and so many tokens, or say why not."""
        key = self._find(caller)
        if key is None:
            return Admission({})
        now_s = self._clock()
        for meter in key.meters:
            amount = tokens if meter is key.tokens else 1
            wait_s = meter.wait_s(amount, self._heard.processes, now_s)
            if wait_s > 0:
                asked = "" if meter is key.requests else f", about {amount} asked for"
                message = (
                    f"Rate limit of this key reached: {meter.bucket.per_minute} {meter.kind} a minute, "
                    f"{meter.bucket.remaining(now_s)} left{asked}. Try again in {_tell_s(wait_s)}."
                )
                again = {
                    "x-should-retry": "true",
                    "retry-after": str(max(1, math.ceil(wait_s))),
                    "retry-after-ms": str(_ms(wait_s)),
                }
                return Admission(_show(key, now_s) | again, message)
        key.take(1, tokens, now_s)
        return Admission(_show(key, now_s))

    def counts_tokens(self, caller: Caller) -> bool:
        """Whether there is a limit on the key's tokens."""
        return self._limits_of(caller)[1] > 0

    def correct(self, caller: Caller, more_tokens: int) -> None:
        """Take so many tokens more than was thought, or give so many back if negative."""
        key = self._find(caller)
        if key is not None:
            key.take(0, more_tokens, self._clock())

    def tell_use(self) -> dict[str, LiveUse]:
        """Key -> what was let in here, for keys that were used within the last two minutes."""
        oldest_s = self._clock() - _TOLD_FOR_S
        return {name: key.let_in for name, key in self._keys.items() if key.let_in[0] and key.used_at_s >= oldest_s}

    def note_others(self, told: Mapping[str, Mapping[str, LiveUse]], silence_s: float) -> None:
        """Other process -> what it told; each of them has told something within so many seconds."""
        now_s = self._clock()
        for name, use in self._heard.hear(told, now_s).items():
            if name in self._keys:
                self._keys[name].note_elsewhere(use, now_s)
        for key in self._keys.values():
            for meter in key.meters:
                meter.portion.renew(now_s, heard_since_s=now_s - silence_s)

    def _limits_of(self, caller: Caller) -> tuple[int, int]:
        own, config = caller.limits, self._config
        requests = config.requests_per_minute if own.requests_per_minute is None else own.requests_per_minute
        tokens = config.tokens_per_minute if own.tokens_per_minute is None else own.tokens_per_minute
        return requests, tokens

    def _find(self, caller: Caller) -> _Key | None:
        limits = self._limits_of(caller)
        if not any(limits):
            return None
        # A key of the settings has no id; its owner is made of it alone.
        name = caller.key_id or caller.owner
        key = self._keys.get(name)
        if key is None or key.limits != limits:
            now_s, before = self._clock(), key
            self._keys[name] = key = _Key(limits, self._heard.fill(name, *limits, now_s), now_s)
            key.let_in = before.let_in if before else key.let_in
            if len(self._keys) > _CALLERS_KEPT:
                self._keys.popitem(last=False)
        self._keys.move_to_end(name)
        return key


def _show(key: _Key, now_s: float) -> dict[str, str]:
    headers: dict[str, str] = {}
    for meter in key.meters:
        headers[f"x-ratelimit-limit-{meter.kind}"] = str(meter.bucket.per_minute)
        headers[f"x-ratelimit-remaining-{meter.kind}"] = str(meter.bucket.remaining(now_s))
        headers[f"x-ratelimit-reset-{meter.kind}"] = _tell_s(meter.bucket.reset_s(now_s))
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
