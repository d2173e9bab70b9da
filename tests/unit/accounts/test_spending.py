"""Sums of usage and money: exact, the same however they are cut, and honest about prices that nobody knows."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backfill.accounts import Charge, Spending, split_row
from backfill.batch import Price, Usage, UsageRow
from backfill.store import BatchUsage

MODELS = ("a", "b", "c", "")
known = st.integers(0, 10**12)
prices = st.builds(
    Price,
    input_per_million=st.none() | known,
    cached_input_per_million=st.none() | known,
    output_per_million=st.none() | known,
    audio_per_minute=st.none() | known,
    discount_percent=st.integers(0, 100),
)
counts = st.integers(0, 2**40)
usages = st.builds(Usage, counts, counts, counts, counts)
rows = st.builds(
    UsageRow,
    model=st.sampled_from(MODELS),
    hour=st.integers(0, 100),
    answered=counts,
    failed=counts,
    usage=usages,
    reused=counts,
    reused_usage=usages,
)
batches = st.lists(
    st.builds(
        BatchUsage,
        batch_id=st.uuids().map(str),
        owner=st.sampled_from(("x", "y")),
        key_id=st.sampled_from((None, "k1", "k2")),
        endpoint=st.just("/v1/embeddings"),
        prices=st.dictionaries(st.sampled_from(MODELS), prices),
        rows=st.lists(rows, max_size=6),
    ),
    max_size=6,
)
GROUPINGS: list[Callable[[BatchUsage, UsageRow], Hashable]] = [
    lambda _, row: row.hour // 24,
    lambda _, row: row.hour,
    lambda _, row: row.model,
    lambda batch, _: batch.key_id,
    lambda batch, _: batch.owner,
    lambda batch, _: batch.batch_id,
    lambda batch, row: (row.hour, row.model, batch.owner),
]


def add_up(used: list[BatchUsage], key_of: Callable[[BatchUsage, UsageRow], Any]) -> dict[Any, Spending]:
    sums: dict[Any, Spending] = defaultdict(Spending)
    for batch in used:
        for row in batch.rows:
            sums[key_of(batch, row)].add(row, batch.prices)
    return sums


@given(batches)
def test_sums_by_day_by_model_and_by_key_are_the_total(used: list[BatchUsage]) -> None:
    totals = []
    for key_of in GROUPINGS:
        total = Spending()
        for each in add_up(used, key_of).values():
            total.add_all(each)
        totals.append(total)
    assert all(total == totals[0] for total in totals)
    assert all(type(getattr(totals[0], name)) is int for name in ("listed", "paid", "reused_listed"))


@given(batches)
def test_line_items_add_up_to_what_is_paid(used: list[BatchUsage]) -> None:
    items, total = Charge(), Spending()
    for batch in used:
        for row in batch.rows:
            total.add(row, batch.prices)
            for item in split_row(row, batch.prices):
                items.add(item)
    assert items.paid == total.paid
    assert items.unpriced_models <= total.unpriced_models
    assert items.tokens == total.usage.prompt_tokens + total.usage.completion_tokens
    assert items.audio_ms == total.usage.audio_ms


def test_money_is_exact_and_reused_answers_are_not_paid() -> None:
    price = Price(60_000_000, 30_000_000, 2_400_000_000, discount_percent=50)
    total = Spending.of_batch([UsageRow("a", 1, 3, 0, Usage(1001, 7, 101), 1, Usage(500, 3, 0))], {"a": price})
    # 900 at 0.06, 101 at 0.03 and 7 at 2.40 for a million each.
    listed = (900 * Decimal("0.06") + 101 * Decimal("0.03") + 7 * Decimal("2.4")) / 10**6
    units = 6 * 10**17
    assert Decimal(total.listed) == listed * units
    assert Decimal(total.paid) == Decimal(total.discount) == listed / 2 * units
    assert Decimal(total.reused_listed) == (500 * Decimal("0.06") + 3 * Decimal("2.4")) / 10**6 * units
    assert total.saved == total.discount + total.reused_listed


def test_a_price_that_nobody_knows_is_not_zero() -> None:
    free, dear = Price(0, None, 0), Price(1_000_000_000, None, 1_000_000_000)
    assert not Spending().is_priced
    assert Spending.of_batch([], {"a": dear}).is_priced
    assert Spending.of_batch([UsageRow("a", 1, 1, 0, Usage(5, 5))], {"a": free}).is_priced
    unknown = Spending.of_batch([UsageRow("b", 1, 1, 0, Usage(5, 5))], {})
    assert (unknown.is_priced, unknown.unpriced_models) == (False, {"b"})
    partly = Spending.of_batch(
        [UsageRow("a", 1, 1, 0, Usage(5, 5)), UsageRow("b", 1, 1, 0, Usage(5, 5)), UsageRow("c", 1, 0, 9)], {"a": dear}
    )
    # A model of which every request was refused has used nothing, and leaves nothing unknown.
    assert (partly.is_priced, partly.unpriced_models) == (True, {"b"})
    assert partly.listed == 10 * 6 * 10**11


def test_input_without_a_price_for_output_is_not_known_either() -> None:
    total = Spending.of_batch([UsageRow("a", 1, 1, 0, Usage(5, 5))], {"a": Price(1_000_000_000)})
    assert (total.paid, total.unpriced_models) == (0, {"a"})
    embedded = Spending.of_batch([UsageRow("a", 1, 1, 0, Usage(5))], {"a": Price(1_000_000_000)})
    assert (embedded.listed, embedded.unpriced_models) == (5 * 6 * 10**11, set())
