"""When live requests arrive: a Poisson process, and now and then a burst. Pure."""

import random

__all__ = ["draw_arrivals", "percentile"]

_BURST_SHARE = 0.1
_BURST = (3, 6)


def draw_arrivals(dice: random.Random, rate_per_s: float, duration_s: float) -> list[float]:
    """Times from 0 to `duration_s`, `rate_per_s` on average; a tenth of the arrivals are bursts of three to six."""
    mean_size = 1 + _BURST_SHARE * (sum(_BURST) / 2 - 1)
    times: list[float] = []
    now_s = 0.0 if rate_per_s else duration_s
    while (now_s := now_s + dice.expovariate((rate_per_s or 1.0) / mean_size)) < duration_s:
        size = dice.randint(*_BURST) if dice.random() < _BURST_SHARE else 1
        times += [now_s] * size
    return times


def percentile(values: list[float], share: float) -> float:
    """The value below which this share lies: of few values the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
