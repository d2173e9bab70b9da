"""What a batch object says of money: decimal strings, which no client rounds. Pure.

A price that is not known shows as null and by name, never as 0.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from backfill.batch import Usage
from backfill.catalogue import format_dollars

__all__ = ["Sums", "render_amount", "render_cost", "render_sums", "render_used"]

# To the last digit: every cost of tokens is a whole number of 10**-18.
_PLACES = 18
_MS = 1000


class Sums(Protocol):
    """What was used and what it costs, as it is summed up elsewhere (`accounts.Spending`)."""

    answered: int
    failed: int
    reused: int
    usage: Usage
    reused_usage: Usage
    listed: int
    paid: int
    is_priced: bool
    unpriced_models: set[str]

    @property
    def discount(self) -> int:
        """What batches pay less."""

    @property
    def saved(self) -> int:
        """How much more the same requests would have cost one by one at list price."""


def render_amount(units: int) -> str:
    """Money to the last digit."""
    return format_dollars(units, _PLACES)


def render_sums(sums: Sums, *, show_savings: bool) -> dict[str, Any]:
    """The members of money: null where no price is known."""
    amounts = {"paid": sums.paid}
    if show_savings:
        amounts = {"list": sums.listed, "discount": sums.discount, "paid": sums.paid, "saved": sums.saved}
    return {name: render_amount(units) if sums.is_priced else None for name, units in amounts.items()}


def render_used(sums: Sums) -> dict[str, int | float]:
    """The members of requests, tokens and audio; those of reused requests stand apart, since nobody computed them."""
    return {
        "requests": sums.answered + sums.failed,
        "answered": sums.answered,
        "failed": sums.failed,
        "input_tokens": sums.usage.prompt_tokens,
        "cached_tokens": sums.usage.cached_tokens,
        "output_tokens": sums.usage.completion_tokens,
        "audio_seconds": sums.usage.audio_ms / _MS,
        "reused_requests": sums.reused,
        "reused_input_tokens": sums.reused_usage.prompt_tokens,
        "reused_output_tokens": sums.reused_usage.completion_tokens,
        "reused_audio_seconds": sums.reused_usage.audio_ms / _MS,
    }


def render_cost(total: Sums, by_model: Mapping[str, Sums], currency: str, *, show_savings: bool) -> dict[str, Any]:
    """The member `cost` of a batch, the same in both dialects."""
    return {
        "currency": currency.lower(),
        **render_sums(total, show_savings=show_savings),
        "unpriced_models": sorted(total.unpriced_models),
        "models": [
            {"model": model or None, **render_used(sums), **render_sums(sums, show_savings=show_savings)}
            for model, sums in by_model.items()
        ],
    }
