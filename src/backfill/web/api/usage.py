"""`GET /v1/usage`: what was used and what it costs, by whatever one wants to know it by."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from backfill.accounts import Spending, UsageFilter
from backfill.batch import UsageRow
from backfill.store import BatchUsage
from backfill.web.api.bodies import JsonResponse
from backfill.web.api.keys import CallerOf
from backfill.web.api.services import ServicesOf
from backfill.web.api.usage_query import HOURS_A_DAY, SummaryQuery, find_span, read_query
from backfill.web.api.usage_scope import find_owner
from backfill.wire.cost import render_sums, render_used

__all__ = ["router"]

router = APIRouter()

_DEFAULT_DAYS = 30
_HOUR_S = 3600
_KEYS: dict[str, Callable[[BatchUsage, UsageRow], Any]] = {
    "hour": lambda _, row: row.hour,
    "day": lambda _, row: row.hour // HOURS_A_DAY,
    "model": lambda _, row: row.model,
    "key": lambda batch, _: batch.key_id,
    "owner": lambda batch, _: batch.owner,
    "batch": lambda batch, _: batch.batch_id,
}


@router.get("/v1/usage")
async def get_usage(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Sums over what batches used, those that run too, each line once; of the caller, or of all for an admin."""
    query = read_query(request, SummaryQuery)
    span = find_span(_start_of(query), query.end_time, 1)
    wanted = UsageFilter(
        *span,
        find_owner(caller),
        owners=frozenset(query.owners),
        models=frozenset(query.models),
        key_ids=frozenset(query.key_ids),
        batch_ids=frozenset(query.batch_ids),
    )
    by = tuple(dict.fromkeys(query.by))
    parts = [_KEYS[name] for name in by]
    sums = await services.usage.sum_up(wanted, lambda batch, row: tuple(part(batch, row) for part in parts))
    total = Spending()
    for each in sums.values():
        total.add_all(each)
    names = await services.usage.name_keys(dict(zip(by, key, strict=True)).get("key") for key in sums)
    money = services.config.money
    rows = [
        _label(by, key, names) | _render(each, show_savings=money.show_savings)
        for key, each in sorted(sums.items(), key=lambda item: [(part is None, part) for part in item[0]])
    ]
    return JsonResponse(
        {
            "object": "usage",
            "start_time": span.since_hour * _HOUR_S,
            "end_time": span.until_hour * _HOUR_S,
            "currency": money.currency.lower(),
            "by": by,
            "data": rows[: query.limit],
            "total": _render(total, show_savings=money.show_savings),
            "has_more": len(rows) > query.limit,
        }
    )


def _start_of(query: SummaryQuery) -> int:
    if query.start_time is not None:
        return query.start_time
    day = find_span(0, query.end_time, HOURS_A_DAY).until_hour // HOURS_A_DAY - _DEFAULT_DAYS
    return max(0, day) * HOURS_A_DAY * _HOUR_S


def _render(spending: Spending, *, show_savings: bool) -> dict[str, Any]:
    return {
        **render_used(spending),
        **render_sums(spending, show_savings=show_savings),
        "unpriced_models": sorted(spending.unpriced_models),
    }


def _label(by: tuple[str, ...], key: tuple[Any, ...], names: Mapping[str, str]) -> dict[str, Any]:
    labels = dict(zip(by, key, strict=True))
    if "hour" in labels:
        labels["hour"] = datetime.fromtimestamp(labels["hour"] * _HOUR_S, UTC).strftime("%Y-%m-%dT%H:00Z")
    if "day" in labels:
        labels["day"] = datetime.fromtimestamp(labels["day"] * HOURS_A_DAY * _HOUR_S, UTC).strftime("%Y-%m-%d")
    if "model" in labels:
        labels["model"] = labels["model"] or None
    if "key" in labels:
        labels["key_name"] = names.get(labels["key"] or "")
    return labels
