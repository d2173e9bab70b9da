"""About the server itself: whether it lives, and who is asking."""

from fastapi import APIRouter
from starlette.responses import Response

from backfill.web.api.bodies import JsonResponse
from backfill.web.api.errors import RETRY_AFTER_S
from backfill.web.api.file_limits import find_limits
from backfill.web.api.keys import CallerOf
from backfill.web.api.readiness import OK
from backfill.web.api.services import ServicesOf

__all__ = ["router"]

router = APIRouter()


@router.get("/health")
async def get_health() -> Response:
    """The process answers. No key is asked for."""
    return JsonResponse({"status": "ok"})


@router.get("/healthz")
async def get_liveness() -> Response:
    """The process lives; one that does not answer this is to be started again. No key is asked for."""
    return JsonResponse({"status": "ok"})


@router.get("/readyz")
async def get_readiness(services: ServicesOf) -> Response:
    """Whether requests should be sent here now, and which part keeps them away if not. No key is asked for."""
    parts = dict(await services.readiness.look())
    if services.stopping.is_set():
        parts["server"] = "stopping"
    is_ready = all(state == OK for state in parts.values())
    headers = {"cache-control": "no-store"} | ({} if is_ready else {"retry-after": str(RETRY_AFTER_S)})
    answer = {"status": OK if is_ready else "unavailable", "parts": parts}
    return JsonResponse(answer, 200 if is_ready else 503, headers)


@router.get("/v1/whoami")
async def get_identity(services: ServicesOf, caller: CallerOf) -> Response:
    """Who asks, and how much one file of his may hold, so that a client can cut a larger one before it sends anything.

    Together's command line asks this before each command, and gives up if there is no answer.
    """
    limits = find_limits(services.intake, caller)
    told = {
        "lines": limits.lines,
        "file_size_bytes": limits.size_bytes,
        "custom_id_length": services.config.limits.custom_id_length,
    }
    return JsonResponse({"object": "user", "user_id": caller.owner, "limits": told})
