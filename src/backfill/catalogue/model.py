"""What is known of one model."""

from datetime import date

import msgspec

from backfill.batch import Price

__all__ = ["CatalogueModel"]


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the catalogue has it; None and empty: not known."""

    id: str
    aliases: tuple[str, ...] = ()
    """Other names, under which requests may ask for it."""
    type: str = "chat"
    """As Together's list of models names it."""
    endpoints: tuple[str, ...] = ()
    context_length: int | None = None
    """Prompt and answer together, in tokens."""
    price: Price = Price()
    price_source: str = ""
    """Who says so."""
    price_date: date | None = None
    """When that was read."""
    retired: date | None = None
    """Since when the provider that set the price does not offer the model any more."""
