"""What an operator can say of models: a file, or tables among the settings."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from backfill.config.sections import Section

__all__ = ["CatalogueConfig", "CatalogueModelConfig"]

_Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=9)]
_Name = Annotated[str, Field(min_length=1, max_length=512)]


class CatalogueModelConfig(Section):
    """One model. Prices are US dollars; one that is not given is unknown, which is not 0."""

    aliases: tuple[_Name, ...] = ()
    """Other names, under which requests may ask for it."""
    type: Literal[
        "chat", "language", "code", "image", "embedding", "moderation", "rerank", "audio", "transcribe", "video"
    ] = "chat"
    endpoints: tuple[Annotated[str, Field(pattern=r"^/")], ...] = ()
    context_length: int | None = Field(None, gt=0)
    """Prompt and answer together, in tokens."""
    input_per_million: _Dollars | None = None
    """For a million tokens."""
    cached_input_per_million: _Dollars | None = None
    """None: as other input."""
    output_per_million: _Dollars | None = None
    audio_per_minute: _Dollars | None = None
    discount_percent: int = Field(0, ge=0, le=100)
    """Taken off for batches."""
    price_source: str = ""
    """Who says what it costs."""
    price_date: date | None = None
    """When that was read."""
    retired: date | None = None
    """Since when whoever set the price does not offer the model any more."""


class CatalogueConfig(Section):
    """What is known of models, over what comes with the package."""

    file: Path | None = None
    """A TOML file with the same tables as `models`."""
    models: dict[_Name, CatalogueModelConfig] = Field(default_factory=dict)
    """Model id -> what is known of it; over the file."""
