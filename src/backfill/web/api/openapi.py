"""`GET /openapi.json`, what the server offers in a form for programs."""

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from backfill.web.api.bodies import JsonResponse

__all__ = ["router"]

router = APIRouter()


@router.get("/openapi.json")
async def get_openapi_document(request: Request) -> Response:
    """This document."""
    app: FastAPI = request.app
    if app.openapi_schema is None:
        from backfill.web.api.document import make_document  # noqa: PLC0415 - loads what only this document needs

        app.openapi_schema = make_document(app)
    return JsonResponse(app.openapi_schema)
