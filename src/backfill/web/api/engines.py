"""What the dispatcher knows of its engines, for whoever watches or operates the server."""

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from backfill.web.api.bodies import JsonResponse
from backfill.web.api.keys import Owner
from backfill.web.api.services import ServicesOf

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/engines")
async def list_engines(services: ServicesOf, _owner: Owner) -> Response:
    """Every replica that lines are sent to: its state, what is with it, and what keeps it from doing more."""
    replicas = [{"object": "engine", **msgspec.structs.asdict(replica)} for replica in services.list_replicas()]
    return JsonResponse({"object": "list", "data": replicas})
