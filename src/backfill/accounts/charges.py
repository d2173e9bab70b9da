"""What is to be paid, split into line items: a model and a kind of what it used. The items of a sum add up to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from backfill.batch import Price, Usage, UsageRow
from backfill.catalogue import compute_cost

__all__ = ["Charge", "LineItem", "split_row"]


class LineItem(NamedTuple):
    """One part of what a row used."""

    name: str
    """As OpenAI names them: "gpt-6-astra, input_tokens"."""
    model: str
    tokens: int
    audio_ms: int
    paid: int | None
    """None: its price is not known, or not that of another part of the same row."""


@dataclass(slots=True)
class Charge:
    """A sum of line items. Money is in the units of `catalogue.Cost`."""

    paid: int = 0
    tokens: int = 0
    audio_ms: int = 0
    is_priced: bool = False
    unpriced_models: set[str] = field(default_factory=set)
    """Models that the sum of money is without."""

    def add(self, item: LineItem) -> None:
        """Take an item in."""
        self.tokens += item.tokens
        self.audio_ms += item.audio_ms
        if item.paid is None:
            self.unpriced_models.add(item.model)
        else:
            self.is_priced = True
            self.paid += item.paid


def split_row(row: UsageRow, prices: Mapping[str, Price]) -> Iterator[LineItem]:
    """The line items of a row; none of what it did not use."""
    price = prices.get(row.model)
    is_known = price is not None and compute_cost(price, row.usage) is not None
    # As the cost of the whole does it.
    cached = min(row.usage.cached_tokens, row.usage.prompt_tokens)
    parts = (
        ("input_tokens", Usage(prompt_tokens=row.usage.prompt_tokens - cached)),
        ("cached_input_tokens", Usage(prompt_tokens=cached, cached_tokens=cached)),
        ("output_tokens", Usage(completion_tokens=row.usage.completion_tokens)),
        ("audio_seconds", Usage(audio_ms=row.usage.audio_ms)),
    )
    for kind, usage in parts:
        if any(usage):
            cost = compute_cost(price, usage) if price is not None and is_known else None
            paid = None if cost is None else cost.paid
            yield LineItem(f"{row.model}, {kind}", row.model, max(usage[:3]), usage.audio_ms, paid)
