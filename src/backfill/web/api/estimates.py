"""What a batch would take and cost, before anything is sent."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from backfill.batch import ENDPOINTS, Batch, Reservation, State
from backfill.errors import InvalidInput
from backfill.turns import check_endpoint, now_ms
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.errors import explain_validation
from backfill.web.api.keys import Owner
from backfill.web.api.services import ServicesOf
from backfill.wire import parse_window
from backfill.wire.estimates import render_estimate
from backfill.wire.forecast import warn_of_lateness, write_time

__all__ = ["WantedEstimate", "router"]

_BODY_BYTES_MAX = 256 * 1024
_MODELS_MAX = 1000
_Count = Annotated[int, Field(ge=0, le=10**15)]

router = APIRouter()


class _Need(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    requests: _Count = 0
    prompt_tokens: _Count
    completion_tokens: _Count


class WantedEstimate(BaseModel):
    """The body of POST /v1/estimates."""

    model_config = ConfigDict(strict=True, extra="ignore")

    endpoint: Annotated[str, Field(json_schema_extra={"examples": list(ENDPOINTS)})]
    completion_window: str | None = None
    models: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=512)], _Need], Field(min_length=1, max_length=_MODELS_MAX)
    ]


@router.post("/v1/estimates")
async def estimate(request: Request, services: ServicesOf, owner: Owner) -> Response:
    """Costs at the server's prices, and when a batch would be done that was made now; nothing is kept."""
    wanted = _parse(await read_body(request, _BODY_BYTES_MAX))
    limits = services.config.limits
    window = wanted.completion_window or f"{limits.window_h:g}h"
    window_ms = parse_window(window, limits.window_min_h, limits.window_max_h)
    reserved = {
        model: Reservation(need.requests, need.prompt_tokens, need.completion_tokens)
        for model, need in wanted.models.items()
    }
    endpoint = check_endpoint(wanted.endpoint, services.config.listed_endpoints)
    now = now_ms()
    batch = Batch(
        id="estimate",
        owner=owner,
        endpoint=endpoint,
        input_file_id="",
        input_size_bytes=0,
        state=State.VALIDATING,
        created_at_ms=now,
        deadline_at_ms=now + window_ms,
        reserved=reserved,
    )
    forecast = await services.foresee(batch)
    answer: dict[str, Any] = {
        "object": "estimate",
        **render_estimate(reserved, {model: services.catalogue.price(model) for model in reserved}, endpoint),
        "estimated_seconds": None if forecast is None else max(0, forecast.done_at_ms - now) // 1000,
        "estimated_completion_at": None if forecast is None else write_time(forecast.done_at_ms),
        "warning": warn_of_lateness(batch, forecast),
    }
    return JsonResponse(answer)


def _parse(body: bytes) -> WantedEstimate:
    if not body.strip():
        raise InvalidInput("The body is empty; send a JSON object with endpoint and models.")
    try:
        return WantedEstimate.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None
