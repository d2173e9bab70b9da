"""What is told of money, and what the operator's own hardware costs."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from backfill.config.sections import Section

__all__ = ["Amount", "MoneyConfig"]

Amount = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=9)]
"""Exact: what stands in the settings, digit by digit."""


class MoneyConfig(Section):
    """How costs are shown; prices are those of the catalogue."""

    show_savings: bool = True
    """False: what is paid is shown, and neither the list price nor what was saved."""
    currency: str = Field("usd", pattern=r"^[A-Za-z]{3}$")
    """The word behind amounts; nothing is converted."""
    price_per_kwh: Amount | None = None
    """Of electricity, for engines with `watts`."""
