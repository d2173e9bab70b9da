"""With what messages to the own addresses of batches are signed, for those who receive them."""

from fastapi import APIRouter
from starlette.responses import Response

from backfill.web.api.bodies import JsonResponse
from backfill.web.api.keys import Owner
from backfill.web.api.services import ServicesOf

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/webhooks/secret")
async def get_webhook_secret(services: ServicesOf, owner: Owner) -> Response:
    """The owner's secret, the same for all batches that name an address of their own."""
    shown = {"object": "webhook.secret", "secret": await services.find_webhook_secret(owner)}
    return JsonResponse(shown, headers={"cache-control": "no-store"})
