"""Costs are exact: they add up whatever is added first, and nothing unknown turns into a zero."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Price, Usage
from backfill.catalogue import Cost, add_costs, compute_cost, format_dollars, format_price
from backfill.catalogue.cost import UNITS_PER_DOLLAR

COUNTS = st.integers(0, 10**12)
PRICES = st.integers(0, 10**15)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS)


@given(PRICES, PRICES, PRICES, PRICES, st.integers(0, 100), USAGES)
def test_a_cost_is_what_fractions_say(
    fresh: int, cached: int, output: int, audio: int, discount: int, usage: Usage
) -> None:
    cost = compute_cost(Price(fresh, cached, output, audio, discount), usage)
    hits = min(usage.cached_tokens, usage.prompt_tokens)
    tokens = (usage.prompt_tokens - hits) * fresh + hits * cached + usage.completion_tokens * output
    expected = Fraction(tokens, 10**15) + Fraction(usage.audio_ms * audio, 60_000 * 10**9)
    assert cost is not None
    assert Fraction(cost.listed, UNITS_PER_DOLLAR) == expected
    assert Fraction(cost.paid, UNITS_PER_DOLLAR) == expected * (100 - discount) / 100
    assert cost.paid + cost.discount == cost.listed


@given(PRICES, PRICES, PRICES, st.integers(0, 100), st.lists(USAGES, min_size=1, max_size=5))
def test_the_sum_of_costs_is_the_cost_of_the_sum(
    fresh: int, output: int, audio: int, discount: int, usages: list[Usage]
) -> None:
    price = Price(input_per_million=fresh, output_per_million=output, audio_per_minute=audio, discount_percent=discount)
    total = Usage(*(sum(column) for column in zip(*usages, strict=True)))
    assert add_costs(compute_cost(price, usage) for usage in usages) == compute_cost(price, total)


def test_what_is_needed_and_not_known_makes_the_cost_unknown() -> None:
    half = Price(input_per_million=1)
    assert compute_cost(Price(), Usage(0, 0, 0)) is None
    assert compute_cost(Price(discount_percent=50), Usage(1, 1, 0)) is None
    assert compute_cost(half, Usage(1, 1, 0)) is None
    assert compute_cost(half, Usage(5, 0, 0)) == Cost(3000, 3000)
    assert compute_cost(half, Usage(5, 0, 0, 1)) is None
    assert add_costs([Cost(1, 1), None]) is None


@given(PRICES, st.integers(0, 100), st.lists(USAGES, min_size=1, max_size=5))
def test_what_has_a_price_by_the_minute_alone_is_paid_by_the_minute(
    audio: int, discount: int, usages: list[Usage]
) -> None:
    price = Price(audio_per_minute=audio, discount_percent=discount)
    total = Usage(*(sum(column) for column in zip(*usages, strict=True)))
    cost = add_costs(compute_cost(price, usage) for usage in usages)
    assert cost == compute_cost(price, total) == compute_cost(price, Usage(audio_ms=total.audio_ms))
    assert cost is not None
    assert Fraction(cost.listed, UNITS_PER_DOLLAR) == Fraction(total.audio_ms * audio, 60_000 * 10**9)


def test_what_costs_nothing_costs_nothing() -> None:
    assert compute_cost(Price(0, None, 0, 0), Usage(7, 7, 7, 7)) == Cost(0, 0)
    assert compute_cost(Price(input_per_million=9), Usage(0, 0, 0)) == Cost(0, 0)
    assert add_costs([]) == Cost(0, 0)


def test_cached_tokens_cost_as_others_where_they_have_no_price_of_their_own() -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=0, cached_tokens=4)
    assert compute_cost(Price(input_per_million=5), usage) == Cost(30_000, 30_000)
    assert compute_cost(Price(input_per_million=5, cached_input_per_million=0), usage) == Cost(18_000, 18_000)


def test_dollars_are_written_without_an_exponent() -> None:
    cost = compute_cost(Price(1_040_000_000, None, 1_040_000_000, None, 50), Usage(1_000_000, 500_000))
    assert cost is not None
    assert (format_dollars(cost.listed), format_dollars(cost.paid)) == ("1.56", "0.78")
    assert format_dollars(0) == "0.00"
    assert format_dollars(600) == "0.00"
    assert format_dollars(600, 18) == "0.000000000000001"
    assert format_dollars(10**30) == "1666666666666.666666666667"
    assert format_dollars(UNITS_PER_DOLLAR // 3) == "0.333333333333"
    assert format_price(600_000_000) == "0.60"
    assert format_price(1) == "0.000000001"
    assert format_price(0) == "0.00"
