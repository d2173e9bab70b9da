"""Who asks: an API key is let in or not, for this route or not, and stands for the owner of files and batches."""

from typing import Annotated

from fastapi import Depends, Request

from backfill.api_key import Caller
from backfill.errors import Unauthorized
from backfill.web.api.scopes import check_scope
from backfill.web.api.services import Services, ServicesOf

__all__ = ["CallerOf", "Owner", "find_caller", "read_bearer"]


def read_bearer(authorization: str | None) -> str | None:
    """The key in an Authorization header; None if there is none."""
    scheme, _, presented = (authorization or "").partition(" ")
    return presented.strip() or None if scheme.lower() == "bearer" else None


async def find_caller(request: Request, services: Services, path: str) -> Caller:
    """Who asks, and may ask this; `path` is that of the route. Raises Unauthorized or Forbidden."""
    try:
        caller = await services.keys.identify(read_bearer(request.headers.get("authorization")))
    except Unauthorized as error:
        services.audit.refuse(request.scope, error.code)
        raise
    check_scope(caller, request.method, path)
    return caller


async def _require_caller(request: Request, services: ServicesOf) -> Caller:
    return await find_caller(request, services, request.scope["route"].path_format)


CallerOf = Annotated[Caller, Depends(_require_caller)]
"""Who asks, and may ask this."""


async def _require_owner(caller: CallerOf) -> str:
    return caller.owner


Owner = Annotated[str, Depends(_require_owner)]
"""Whose files and batches are asked for."""
