"""What one's own hardware cost for what it computed, beside what the same would cost at list price."""

from collections.abc import Collection
from decimal import Decimal
from typing import NamedTuple

from backfill.batch import Price, Usage
from backfill.catalogue import compute_cost, format_dollars
from backfill.config import EngineConfig, MoneyConfig

__all__ = ["HardwareCost", "compute_hardware_cost"]

_MILLION = 1_000_000
_MS_AN_HOUR = 3_600_000
_WATTS_A_KILOWATT = 1000
_PLACES = Decimal("0.000001")


class HardwareCost(NamedTuple):
    """For a million tokens, in and out together, as decimal numbers; None: not known."""

    per_million: str | None = None
    list_price_per_million: str | None = None


def compute_hardware_cost(
    engine: EngineConfig, money: MoneyConfig, busy_ms: int, usage: Usage, prices: Collection[Price]
) -> HardwareCost:
    """The cost of the time that an engine worked, spread over the tokens that it computed meanwhile.

    `prices`: of all models that it serves. Only if they have one in common the list price is known, since an engine
    does not say which of its models computed what.
    """
    tokens = usage.prompt_tokens + usage.completion_tokens
    per_hour = _cost_an_hour(engine, money)
    if not tokens:
        return HardwareCost()
    spent = None if per_hour is None else per_hour * busy_ms / _MS_AN_HOUR
    listed = compute_cost(next(iter(prices)), usage) if len(prices) == 1 else None
    return HardwareCost(
        None if spent is None else f"{(spent * _MILLION / tokens).quantize(_PLACES):f}",
        None if listed is None else format_dollars(listed.listed * _MILLION // tokens, 6),
    )


def _cost_an_hour(engine: EngineConfig, money: MoneyConfig) -> Decimal | None:
    """Hardware and electricity, as far as both are known; None if neither is."""
    if engine.watts is not None and money.price_per_kwh is not None:
        return (engine.cost_per_hour or Decimal(0)) + engine.watts / _WATTS_A_KILOWATT * money.price_per_kwh
    return engine.cost_per_hour
