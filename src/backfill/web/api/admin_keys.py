"""The administration of keys, in the shape of OpenAI's. A key is shown in the answer that makes it, and never again."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from backfill.accounts import DEFAULT_SCOPES, KeyDraft
from backfill.api_key import ApiKey, KeyLimits, Scope
from backfill.errors import InvalidInput, NotFound
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.errors import explain_validation
from backfill.web.api.keys import CallerOf
from backfill.web.api.services import ServicesOf
from backfill.wire.admin_keys import render_deleted_key, render_key, render_key_page

__all__ = ["CreateKey", "router"]

_BODY_BYTES_MAX = 64 * 1024
_PAGE_MAX = 100

router = APIRouter()

_Limit = Annotated[int, Field(gt=0, le=2**53)] | None


class _Limits(BaseModel):
    """Limits of one key; null or left out: the server's own."""

    # A limit that is not known must not be taken for one that holds.
    model_config = ConfigDict(strict=True, extra="forbid")

    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    lines: _Limit = None
    file_size_bytes: _Limit = None
    enqueued_tokens: _Limit = None


class CreateKey(BaseModel):
    """The body of POST /v1/organization/admin_api_keys."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=64)]
    expires_in_seconds: Annotated[int, Field(gt=0, le=100 * 366 * 86_400)] | None = None
    owner: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    scopes: list[Literal["batch", "live", "read-only", "admin"]] | None = None
    limits: _Limits = _Limits()


class _Page(BaseModel):
    """Which keys to list."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=_PAGE_MAX)] = 20
    order: Literal["asc", "desc"] = "desc"
    include_revoked: bool = False


@router.get("/v1/organization/admin_api_keys")
async def list_keys(services: ServicesOf, _caller: CallerOf, page: Annotated[_Page, Query()]) -> Response:
    """The keys of the database, newest first; those that were revoked only if they are asked for."""
    found = await services.keys.list()
    if page.order == "desc":
        found.reverse()
    if page.after is not None:
        # Among all: it may have been revoked since the page before.
        found = found[_find(found, page.after) + 1 :]
    found = [key for key in found if page.include_revoked or key.revoked_at_ms is None]
    return JsonResponse(render_key_page(found[: page.limit], has_more=len(found) > page.limit))


@router.post("/v1/organization/admin_api_keys")
async def create_key(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Make a key; it lets its holder in from now on."""
    key, secret = await services.keys.create(_parse(await read_body(request, _BODY_BYTES_MAX)))
    services.audit.record(request.scope, "key.create", caller, **_describe(key))
    return JsonResponse(render_key(key, secret))


@router.get("/v1/organization/admin_api_keys/{key_id}")
async def get_key(key_id: str, services: ServicesOf, _caller: CallerOf) -> Response:
    """One key that was not revoked."""
    return JsonResponse(render_key(await services.keys.get(key_id)))


@router.delete("/v1/organization/admin_api_keys/{key_id}")
async def revoke_key(key_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Revoke a key: it lets nobody in from now on. What was made with it stays."""
    key = await services.keys.revoke(key_id)
    services.audit.record(request.scope, "key.revoke", caller, **_describe(key))
    return JsonResponse(render_deleted_key(key))


def _parse(body: bytes) -> KeyDraft:
    try:
        wanted = CreateKey.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None
    # In OpenAI's API such a key may do all; here only one that is made so.
    return KeyDraft(
        name=wanted.name,
        owner=wanted.owner,
        scopes=DEFAULT_SCOPES if wanted.scopes is None else tuple(map(Scope, wanted.scopes)),
        limits=KeyLimits(**wanted.limits.model_dump()),
        expires_after_s=wanted.expires_in_seconds,
    )


def _find(keys: list[ApiKey], key_id: str) -> int:
    for index, key in enumerate(keys):
        if key.id == key_id:
            return index
    message = f"No such key: {key_id}."
    raise NotFound(message, param="after")


def _describe(key: ApiKey) -> dict[str, object]:
    return {
        "key": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "key_owner": key.owner,
        "scopes": [scope.value for scope in key.scopes],
    }
