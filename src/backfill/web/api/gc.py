"""Removing what is over, now: what the server does by itself every half minute, and `backfill gc` without a server."""

from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from backfill.errors import Conflict, InvalidInput
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.errors import explain_validation
from backfill.web.api.keys import CallerOf
from backfill.web.api.services import ServicesOf

__all__ = ["CollectGarbage", "router"]

_BODY_BYTES_MAX = 64 * 1024

router = APIRouter()


class CollectGarbage(BaseModel):
    """The body of POST /v1/gc."""

    # What is not known must not be removed by mistake, such as for a `dry-run` that was misspelt.
    model_config = ConfigDict(strict=True, extra="forbid")

    dry_run: bool = False
    data_dir: str | None = None
    """Where the caller takes the server to work; another one is refused."""


@router.post("/v1/gc")
async def collect_garbage(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Remove what is older than the settings allow, or say what that is."""
    wanted = _parse(await read_body(request, _BODY_BYTES_MAX))
    if wanted.data_dir is not None and Path(wanted.data_dir) != services.config.data_dir.resolve():
        raise Conflict("This server works in another data directory.", code="other_data_dir", param="data_dir")
    leftovers = await services.collect(is_trial=wanted.dry_run)
    size_bytes = sum(leftover.size_bytes for leftover in leftovers)
    if not wanted.dry_run:
        services.audit.record(request.scope, "gc", caller, count=len(leftovers), size_bytes=size_bytes)
    removed = [leftover._asdict() for leftover in leftovers]
    return JsonResponse({"object": "gc", "dry_run": wanted.dry_run, "size_bytes": size_bytes, "removed": removed})


def _parse(body: bytes) -> CollectGarbage:
    if not body:
        return CollectGarbage()
    try:
        return CollectGarbage.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None
