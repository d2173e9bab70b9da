"""What a batch would cost before anything is sent, from what its lines are taken to need. Pure."""

from collections.abc import Mapping
from typing import Any

from backfill.batch import AUDIO_ENDPOINTS, AUDIO_TOKENS_PER_S, Price, Reservation, Usage
from backfill.catalogue import Cost, add_costs, compute_cost, format_dollars

__all__ = ["render_estimate"]


def render_estimate(reserved: Mapping[str, Reservation], prices: Mapping[str, Price], endpoint: str) -> dict[str, Any]:
    """Each model with tokens and costs, and all together; a cost of which a part is not known is null."""
    costs = {
        model: compute_cost(prices.get(model, Price()), _foresee(each, endpoint)) for model, each in reserved.items()
    }
    models = [
        {
            "model": model,
            **_render_need(each),
            **_render_cost(costs[model]),
            "batch_discount_percent": prices.get(model, Price()).discount_percent,
        }
        for model, each in reserved.items()
    ]
    total = Reservation(
        sum(each.lines for each in reserved.values()),
        sum(each.prompt_tokens for each in reserved.values()),
        sum(each.completion_tokens for each in reserved.values()),
    )
    return {"currency": "usd", "models": models, **_render_need(total), **_render_cost(add_costs(costs.values()))}


def _foresee(need: Reservation, endpoint: str) -> Usage:
    if endpoint in AUDIO_ENDPOINTS:
        return Usage(audio_ms=need.prompt_tokens * 1000 // AUDIO_TOKENS_PER_S)
    return Usage(need.prompt_tokens, need.completion_tokens)


def _render_need(need: Reservation) -> dict[str, int]:
    return {
        "requests": need.lines,
        "prompt_tokens": need.prompt_tokens,
        "completion_tokens": need.completion_tokens,
    }


def _render_cost(cost: Cost | None) -> dict[str, str | None]:
    if cost is None:
        return dict.fromkeys(("list_price", "batch_price", "saved"))
    return {
        "list_price": format_dollars(cost.listed),
        "batch_price": format_dollars(cost.paid),
        "saved": format_dollars(cost.discount),
    }
