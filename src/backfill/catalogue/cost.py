"""What tokens and audio cost at a price, exactly: sums of costs are the cost of the sums, to the last digit.

Costs are counted in a unit so small that every product of a count, a price and a whole percentage is a whole number of
them: a token is a millionth of what prices are for, a millisecond a 60,000th, and both are taken by the hundredth. They
are never stored, since they follow from what is: counts and prices.
"""

from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import NamedTuple

from backfill.batch import Price, Usage

__all__ = [
    "BILLIONTHS",
    "UNITS_PER_DOLLAR",
    "Cost",
    "add_costs",
    "compute_cost",
    "format_dollars",
    "format_price",
    "to_dollars",
]

BILLIONTHS = 1_000_000_000
"""Of a dollar: what prices are counted in."""
UNITS_PER_DOLLAR = 6 * 10**17
"""What costs are counted in."""

_UNITS_PER_TOKEN = UNITS_PER_DOLLAR // BILLIONTHS // 1_000_000 // 100
_UNITS_PER_MS = UNITS_PER_DOLLAR // BILLIONTHS // 60_000 // 100
_PLACES_SHOWN = 12
_PLACES_AT_LEAST = 2


class Cost(NamedTuple):
    """What something costs, in units of which UNITS_PER_DOLLAR are a dollar."""

    listed: int
    """Without the discount."""
    paid: int
    """With it."""

    @property
    def discount(self) -> int:
        """How much less is paid than is listed."""
        return self.listed - self.paid


def compute_cost(price: Price, usage: Usage) -> Cost | None:
    """The cost of what was used; None if a price that is needed for it is not known.

    A model that has a price by the minute and none by tokens is paid by the minute alone, whatever else is reported.
    """
    if not _is_known(price):
        return None
    if price.audio_per_minute is not None and price.input_per_million is price.output_per_million is None:
        usage = Usage(audio_ms=usage.audio_ms)
    cached_price = price.input_per_million if price.cached_input_per_million is None else price.cached_input_per_million
    # An engine that reports more cached tokens than the prompt has must not make the rest cost less than nothing.
    cached_tokens = min(usage.cached_tokens, usage.prompt_tokens)
    hundredths = 0
    for count, per_count, units in (
        (usage.prompt_tokens - cached_tokens, price.input_per_million, _UNITS_PER_TOKEN),
        (cached_tokens, cached_price, _UNITS_PER_TOKEN),
        (usage.completion_tokens, price.output_per_million, _UNITS_PER_TOKEN),
        (usage.audio_ms, price.audio_per_minute, _UNITS_PER_MS),
    ):
        if count and per_count is None:
            return None
        hundredths += count * (per_count or 0) * units
    return Cost(listed=hundredths * 100, paid=hundredths * (100 - price.discount_percent))


def add_costs(costs: Iterable[Cost | None]) -> Cost | None:
    """The sum; None if a part of it is not known."""
    listed = paid = 0
    for cost in costs:
        if cost is None:
            return None
        listed += cost.listed
        paid += cost.paid
    return Cost(listed, paid)


def format_dollars(units: int, places: int = _PLACES_SHOWN) -> str:
    """As a decimal number of dollars, without an exponent: rounded at `places`, never cut below cents: "0.0125".

    With 18 places every cost of tokens alone stands there to the last digit.
    """
    with localcontext() as context:
        context.prec = 60
        return _trim(round(Decimal(units) / UNITS_PER_DOLLAR, places))


def format_price(billionths: int) -> str:
    """A price as a decimal number of dollars, to the last digit: "0.60"."""
    return _trim(Decimal(billionths) / BILLIONTHS)


def to_dollars(billionths: int | None) -> float | None:
    """A price as a JSON number: the nearest there is, which reads as the price was written."""
    return None if billionths is None else billionths / BILLIONTHS


def _is_known(price: Price) -> bool:
    per_unit = (price.input_per_million, price.output_per_million, price.audio_per_minute)
    return any(one is not None for one in per_unit)


def _trim(dollars: Decimal) -> str:
    whole, _, rest = f"{dollars:f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(_PLACES_AT_LEAST, '0')}"
