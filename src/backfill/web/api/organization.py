"""What an organization used and what it cost, in the shape of OpenAI's endpoints, for tools that read those.

A project and a user are both an owner here. Usage is that of batches; of live requests none is kept.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from backfill.accounts import Charge, UsageFilter, split_row
from backfill.api_key import Caller
from backfill.batch import AUDIO_ENDPOINTS, UsageRow
from backfill.errors import InvalidInput
from backfill.store import BatchUsage
from backfill.web.api.bodies import JsonResponse
from backfill.web.api.keys import CallerOf
from backfill.web.api.services import Services, ServicesOf
from backfill.web.api.usage_query import HOURS_A_DAY, CostsQuery, Span, UsageQuery, find_span, read_query
from backfill.web.api.usage_scope import find_owner
from backfill.wire.organization import render_bucket, render_cost_result, render_page, render_usage_result

__all__ = ["router"]

router = APIRouter()

_COMPLETIONS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_EMBEDDINGS = frozenset({"/v1/embeddings"})
_LIMITS = {"1h": (24, 168), "1d": (7, 31)}
_PARTS: dict[str, Callable[[BatchUsage, UsageRow], Any]] = {
    "project_id": lambda batch, _: batch.owner,
    "user_id": lambda batch, _: batch.owner,
    "api_key_id": lambda batch, _: batch.key_id,
    "model": lambda _, row: row.model or None,
    "batch": lambda _batch, _row: True,
    "service_tier": lambda _batch, _row: "batch",
    "api_source": lambda _batch, _row: "unlabeled",
}


@router.get("/v1/organization/usage/completions")
async def get_completions_usage(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Tokens and requests of the endpoints that give text for text, in buckets of time."""
    return await _answer_usage(request, services, caller, "completions", _COMPLETIONS)


@router.get("/v1/organization/usage/embeddings")
async def get_embeddings_usage(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Tokens and requests of /v1/embeddings, in buckets of time."""
    return await _answer_usage(request, services, caller, "embeddings", _EMBEDDINGS)


@router.get("/v1/organization/usage/audio_transcriptions")
async def get_audio_usage(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Seconds and requests of transcriptions and translations, in buckets of time."""
    return await _answer_usage(request, services, caller, "audio_transcriptions", frozenset(AUDIO_ENDPOINTS))


@router.get("/v1/organization/costs")
async def get_costs(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """What is to be paid, by day; a line item is a model and a kind of what it used."""
    query = read_query(request, CostsQuery)
    span, next_page = _find_page(query, HOURS_A_DAY, query.limit)
    by = tuple(dict.fromkeys(query.group_by))
    owners = _narrow(query.project_ids, query.user_ids)
    wanted = UsageFilter(*span, find_owner(caller), owners=owners, key_ids=frozenset(query.api_key_ids))
    charges: dict[tuple[int, tuple[Any, ...]], Charge] = {}

    def take(batch: BatchUsage, row: UsageRow) -> None:
        for item in split_row(row, batch.prices):
            if not query.line_items or item.name in query.line_items:
                labels = tuple(item.name if name == "line_item" else _PARTS[name](batch, row) for name in by)
                charges.setdefault((row.hour // HOURS_A_DAY, labels), Charge()).add(item)

    if _can_match(query.project_ids, query.user_ids, owners):
        await services.usage.visit(wanted, take)
    currency = services.config.money.currency
    buckets: dict[int, list[dict[str, Any]]] = {}
    for (day, labels), charge in sorted(charges.items(), key=_order):
        paid = charge.paid if charge.is_priced else None
        amount = charge if "line_item" in by else None
        named = dict(zip(by, labels, strict=True))
        result = render_cost_result(paid, currency, amount, charge.unpriced_models, named)
        buckets.setdefault(day, []).append(result)
    return _answer_page(span, HOURS_A_DAY, buckets, next_page)


async def _answer_usage(
    request: Request, services: Services, caller: Caller, kind: str, endpoints: frozenset[str]
) -> Response:
    query = read_query(request, UsageQuery)
    width_h = 1 if query.bucket_width == "1h" else HOURS_A_DAY
    usual, most = _LIMITS[query.bucket_width]
    if query.limit is not None and query.limit > most:
        message = f"limit must be at most {most} with a bucket_width of {query.bucket_width}."
        raise InvalidInput(message, param="limit")
    span, next_page = _find_page(query, width_h, query.limit or usual)
    by = tuple(dict.fromkeys(query.group_by))
    owners = _narrow(query.project_ids, query.user_ids)
    wanted = UsageFilter(
        *span,
        find_owner(caller),
        owners=owners,
        models=frozenset(query.models),
        key_ids=frozenset(query.api_key_ids),
        endpoints=endpoints,
    )
    buckets: dict[int, list[dict[str, Any]]] = {}
    # Of what is no batch nothing is kept.
    if query.batch is not False and _can_match(query.project_ids, query.user_ids, owners):
        parts = [_PARTS[name] for name in by]
        sums = await services.usage.sum_up(
            wanted, lambda batch, row: (row.hour // width_h, tuple(part(batch, row) for part in parts))
        )
        for (bucket, labels), each in sorted(sums.items(), key=_order):
            named = dict(zip(by, labels, strict=True))
            buckets.setdefault(bucket, []).append(render_usage_result(kind, each, named))
    return _answer_page(span, width_h, buckets, next_page)


def _narrow(projects: list[str], users: list[str]) -> frozenset[str]:
    """The owners that are meant: both words mean one."""
    return frozenset(projects) & frozenset(users) if projects and users else frozenset(projects or users)


def _can_match(projects: list[str], users: list[str], owners: frozenset[str]) -> bool:
    """False: nobody is in both lists."""
    return bool(owners) or not (projects or users)


def _find_page(query: UsageQuery | CostsQuery, width_h: int, limit: int) -> tuple[Span, str | None]:
    """The hours of the buckets that are asked for, and the name of the page behind them, if there is one."""
    whole = find_span(query.start_time, query.end_time, width_h)
    since_hour = whole.since_hour
    if query.page is not None:
        since_hour = int(query.page.removeprefix("page_"))
        if not whole.since_hour <= since_hour < whole.until_hour or since_hour % width_h:
            raise InvalidInput("page must be next_page of an answer to the same question.", param="page")
    until_hour = min(since_hour + limit * width_h, whole.until_hour)
    return Span(since_hour, until_hour), f"page_{until_hour}" if until_hour < whole.until_hour else None


def _answer_page(
    span: Span, width_h: int, results: Mapping[int, list[dict[str, Any]]], next_page: str | None
) -> Response:
    buckets = [
        render_bucket(hour, hour + width_h, results.get(hour // width_h, ()))
        for hour in range(span.since_hour, span.until_hour, width_h)
    ]
    return JsonResponse(render_page(buckets, next_page))


def _order(item: tuple[tuple[int, tuple[Any, ...]], Any]) -> tuple[int, list[tuple[bool, Any]]]:
    (bucket, labels), _ = item
    return bucket, [(label is None, label) for label in labels]
