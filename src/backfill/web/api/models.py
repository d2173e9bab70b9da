"""The models that are served now, with what they cost: in each client's own shape."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from backfill.batch import Dialect
from backfill.catalogue import CatalogueModel
from backfill.errors import NotFound
from backfill.status import ServedModel
from backfill.web.api.bodies import JsonResponse
from backfill.web.api.dialects import dialect_of_models, wants_whole_pricing
from backfill.web.api.keys import Owner
from backfill.web.api.services import Services, ServicesOf
from backfill.wire.models import render_model, render_model_list, render_supported_list, render_supported_model

__all__ = ["router"]

router = APIRouter()

_Render = Callable[[ServedModel, CatalogueModel | None], dict[str, Any]]


@router.get("/v1/models")
async def list_models(request: Request, services: ServicesOf, _owner: Owner) -> Response:
    """The models that requests may name: a bare array for Together's clients, a list for all others."""
    models = await _render_all(services, _find_renderer(request))
    whole = models if dialect_of_models(request) is Dialect.TOGETHER else render_model_list(models)
    return JsonResponse(whole)


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, request: Request, services: ServicesOf, _owner: Owner) -> Response:
    """One of them, by its id or by another name of it."""
    return JsonResponse(await _render_one(services, model_id, _find_renderer(request)))


@router.get("/v1/supported-models")
async def list_supported_models(services: ServicesOf, _owner: Owner) -> Response:
    """The same models as Together's clients of 3.x ask for them, under `/v2`."""
    return JsonResponse(render_supported_list(await _render_all(services, render_supported_model)))


@router.get("/v1/supported-models/{model_id:path}")
async def get_supported_model(model_id: str, services: ServicesOf, _owner: Owner) -> Response:
    """One of them."""
    return JsonResponse(await _render_one(services, model_id, render_supported_model))


def _find_renderer(request: Request) -> _Render:
    return partial(render_model, whole_pricing=wants_whole_pricing(request))


async def _render_all(services: Services, render: _Render) -> list[dict[str, Any]]:
    return [render(model, services.catalogue.find(model.id)) for model in await services.list_models()]


async def _render_one(services: Services, model_id: str, render: _Render) -> dict[str, Any]:
    served = {model.id: model for model in await services.list_models()}
    found = served.get(model_id) or served.get(services.catalogue.resolve(model_id))
    if found is None:
        message = f"The model {model_id!r} is not served here; GET /v1/models lists those that are."
        raise NotFound(message, param="model", code="model_not_found")
    return render(found, services.catalogue.find(found.id))
