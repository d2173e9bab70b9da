"""What a batch costs, for whoever shows one."""

from typing import Any

from backfill.accounts.spending import Spending
from backfill.batch import Batch, UsageRow
from backfill.config import MoneyConfig
from backfill.wire.cost import render_cost

__all__ = ["cost_of"]


def cost_of(batch: Batch, usage: tuple[UsageRow, ...], money: MoneyConfig) -> dict[str, Any]:
    """The member `cost` of a batch that used this so far, at the prices of when it was made."""
    by_model: dict[str, Spending] = {}
    for row in usage:
        by_model.setdefault(row.model, Spending()).add(row, batch.prices)
    total = Spending.of_batch(usage, batch.prices)
    return render_cost(total, by_model, money.currency, show_savings=money.show_savings)
