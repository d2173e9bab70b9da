"""What lines used and what that costs, summed up exactly: integers all the way, and each model at its own price.

A price that is not known is no price of zero. What has none is left out of the sums of money, and named.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backfill.batch import Price, Usage, UsageRow
from backfill.catalogue import Cost, compute_cost

__all__ = ["Spending"]

_NOTHING = Usage()
_NO_COST: Cost | None = Cost(0, 0)


@dataclass(slots=True)
class Spending:
    """A sum over rows of usage. Money is in the units of `catalogue.Cost`."""

    answered: int = 0
    failed: int = 0
    reused: int = 0
    """Of the requests those that got the outcome of an identical one; they are not paid for."""
    usage: Usage = _NOTHING
    """What engines computed."""
    reused_usage: Usage = _NOTHING
    """What the reused requests would have used."""
    listed: int = 0
    """What was computed, at list price."""
    paid: int = 0
    """The same, less the discount for batches."""
    reused_listed: int = 0
    """What the reused requests would have cost at list price."""
    is_priced: bool = False
    """Whether anything in the sum has a price."""
    unpriced_models: set[str] = field(default_factory=set)
    """Models that used something and whose price is not known: the sums of money are without them."""

    @classmethod
    def of_batch(cls, rows: Iterable[UsageRow], prices: Mapping[str, Price]) -> "Spending":
        """All that a batch used."""
        total = cls(is_priced=bool(prices))
        for row in rows:
            total.add(row, prices)
        return total

    @property
    def requests(self) -> int:
        """Requests that have their outcome."""
        return self.answered + self.failed

    @property
    def discount(self) -> int:
        """What batches pay less."""
        return self.listed - self.paid

    @property
    def saved(self) -> int:
        """How much more the same requests would have cost one by one at list price."""
        return self.listed + self.reused_listed - self.paid

    def add(self, row: UsageRow, prices: Mapping[str, Price]) -> None:
        """Take a row in, at the price of its model."""
        self.answered += row.answered
        self.failed += row.failed
        self.reused += row.reused
        self.usage = _add(self.usage, row.usage)
        price = prices.get(row.model)
        cost = None if price is None else compute_cost(price, row.usage)
        reused = _NO_COST
        if row.reused:
            self.reused_usage = _add(self.reused_usage, row.reused_usage)
            reused = None if price is None else compute_cost(price, row.reused_usage)
        self._add_cost(row, cost, reused)

    def add_all(self, other: "Spending") -> None:
        """Take another sum in."""
        self.answered += other.answered
        self.failed += other.failed
        self.reused += other.reused
        self.usage = _add(self.usage, other.usage)
        self.reused_usage = _add(self.reused_usage, other.reused_usage)
        self.listed += other.listed
        self.paid += other.paid
        self.reused_listed += other.reused_listed
        self.is_priced = self.is_priced or other.is_priced
        self.unpriced_models |= other.unpriced_models

    def _add_cost(self, row: UsageRow, cost: Cost | None, reused: Cost | None) -> None:
        if cost is not None:
            self.is_priced = True
            self.listed += cost.listed
            self.paid += cost.paid
        if reused is not None:
            self.reused_listed += reused.listed
        # Requests that used nothing cost nothing, whatever the price: those that were refused, say.
        if (cost is None and any(row.usage)) or (reused is None and any(row.reused_usage)):
            self.unpriced_models.add(row.model)


def _add(usage: Usage, more: Usage) -> Usage:
    return Usage(
        usage.prompt_tokens + more.prompt_tokens,
        usage.completion_tokens + more.completion_tokens,
        usage.cached_tokens + more.cached_tokens,
        usage.audio_ms + more.audio_ms,
    )
