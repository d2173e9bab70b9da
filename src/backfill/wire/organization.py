"""OpenAI's pages of what an organization used and what it cost: buckets of time, and results in each. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from backfill.wire.cost import Sums, render_amount

__all__ = ["Amount", "render_bucket", "render_cost_result", "render_page", "render_usage_result"]

_HOUR_S = 3600
_MS = 1000
_LABELS = ("project_id", "user_id", "api_key_id", "model")


class Amount(Protocol):
    """How much of one kind was used: tokens or audio."""

    tokens: int
    audio_ms: int


def render_page(buckets: Sequence[dict[str, Any]], next_page: str | None) -> dict[str, Any]:
    """Some buckets; clients ask on with `page` as long as there are more."""
    return {"object": "page", "data": list(buckets), "has_more": next_page is not None, "next_page": next_page}


def render_bucket(since_hour: int, until_hour: int, results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A span of time; without results where nothing was used."""
    return {
        "object": "bucket",
        "start_time": since_hour * _HOUR_S,
        "end_time": until_hour * _HOUR_S,
        "results": list(results),
    }


def render_usage_result(kind: str, sums: Sums, labels: dict[str, Any]) -> dict[str, Any]:
    """What one group used; `labels` are the members by which it was grouped, the others are null.

    Requests are those that an engine or Backfill itself had to answer: reused ones are none.
    """
    usage = sums.usage
    result = {
        "object": f"organization.usage.{kind}.result",
        "num_model_requests": sums.answered + sums.failed - sums.reused,
        **dict.fromkeys(_LABELS),
    }
    if kind == "audio_transcriptions":
        # Whole ones there: what has begun counts.
        return result | {"seconds": -(-usage.audio_ms // _MS)} | labels
    result["input_tokens"] = usage.prompt_tokens
    if kind == "completions":
        result |= {
            "output_tokens": usage.completion_tokens,
            "input_cached_tokens": usage.cached_tokens,
            "input_uncached_tokens": max(0, usage.prompt_tokens - usage.cached_tokens),
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "batch": None,
            "service_tier": None,
            "api_source": None,
        }
    return result | labels


def render_cost_result(
    paid: int | None, currency: str, amount: Amount | None, unpriced_models: Iterable[str], labels: dict[str, Any]
) -> dict[str, Any]:
    """What one group costs. `paid` is null where no price is known; the number has every digit, as it is no float.

    `amount`: of what that is the price, where it is of one kind.
    """
    value = None if paid is None else msgspec.Raw(render_amount(paid).encode())
    return {
        "object": "organization.costs.result",
        "amount": {"value": value, "currency": currency.lower()},
        "project_id": None,
        "user_id": None,
        "api_key_id": None,
        "api_source": None,
        "line_item": None,
        "quantity": None if amount is None else amount.tokens or -(-amount.audio_ms // _MS),
        "quantity_unit": None if amount is None else "seconds" if amount.audio_ms else "tokens",
        # Not OpenAI's: what the amount leaves out.
        "unpriced_models": sorted(unpriced_models),
        **labels,
    }
