"""About the server itself: whether it lives, which models it serves, and who is asking."""

from fastapi import APIRouter
from starlette.responses import Response

from backfill.web.api.bodies import JsonResponse
from backfill.web.api.keys import Owner
from backfill.web.api.services import ServicesOf

__all__ = ["router"]

router = APIRouter()


@router.get("/health")
async def get_health() -> Response:
    """For load balancers: the process answers. No key is asked for."""
    return JsonResponse({"status": "ok"})


@router.get("/v1/models")
async def list_models(services: ServicesOf, _owner: Owner) -> Response:
    """The models that lines may name."""
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "backfill"} for name in services.list_models()]
    return JsonResponse({"object": "list", "data": models})


@router.get("/v1/whoami")
async def get_identity(owner: Owner) -> Response:
    """Together's command line asks this before each command, and gives up if there is no answer."""
    return JsonResponse({"object": "user", "user_id": owner})
