"""Batches: create, look at, list, pause, resume, cancel. Who works on them and when is decided elsewhere."""

import asyncio
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from backfill.api_key import Caller
from backfill.batch import ENDPOINTS, HOUR_MS, Batch, Dialect, File, Standing
from backfill.errors import InvalidInput, NotFound, TooLarge
from backfill.turns import Attempt, BatchRequest, check_endpoint
from backfill.web.api.batch_members import (
    BatchName,
    OnInvalidLines,
    describe_members,
    find_name,
    find_skips_invalid_lines,
)
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.dialects import (
    dialect_of_file,
    dialect_of_list,
    dialect_of_requests,
    named_dialect,
    render_batch,
)
from backfill.web.api.errors import explain_validation
from backfill.web.api.file_limits import find_limits
from backfill.web.api.idempotency import read_attempt
from backfill.web.api.inline_requests import InlineRequests, take_out_requests
from backfill.web.api.keys import CallerOf, Owner
from backfill.web.api.services import Services, ServicesOf
from backfill.wire import parse_window
from backfill.wire.forecast import warn_of_lateness
from backfill.wire.openai import render_list
from backfill.wire.own_webhook import show_webhook_url

__all__ = ["BatchMetadata", "CreateBatch", "answer_created", "router"]

CREATE_BYTES_MAX = 64 * 1024
# Together's clients do not page; they sort and cut what they get.
WHOLE_LIST_MAX = 10_000
PAGE_MAX = 100
_PRIORITY_MAX = 2**31 - 1
_METADATA_PAIRS_MAX = 16
# For clients that can send no other member.
_WEBHOOK_KEY = "webhook_url"

router = APIRouter()

_Text = Annotated[str, Field(min_length=1, max_length=512)]
BatchMetadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=_METADATA_PAIRS_MAX),
]


class _ExpiresAfter(BaseModel):
    """How long the results are kept, counted from when they are made."""

    model_config = ConfigDict(strict=True, extra="ignore")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


_ONE_INPUT: dict[str, Any] = {
    "oneOf": [
        {"required": ["input_file_id"], "properties": {"input_file_id": {"type": "string"}}},
        {"required": ["requests"], "properties": {"requests": {"type": "array"}}},
    ]
}


class CreateBatch(BaseModel):
    """The body of POST /v1/batches. Members that are not known are for other servers, and are let pass."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra=_ONE_INPUT)

    endpoint: Annotated[str, Field(json_schema_extra={"examples": list(ENDPOINTS)})]
    input_file_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    requests: (
        Annotated[list[dict[str, Any]], Field(min_length=1, description="As lines of a file, instead of one.")] | None
    ) = None
    completion_window: str | None = None
    model_id: _Text | None = None
    priority: Annotated[int, Field(ge=-_PRIORITY_MAX, le=_PRIORITY_MAX)] | None = None
    metadata: BatchMetadata | None = None
    output_expires_after: _ExpiresAfter | None = None
    name: BatchName | None = None
    on_invalid_lines: OnInvalidLines | None = None
    webhook_url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None


class BatchQuery(BaseModel):
    """Which batches a list has: a page of them for OpenAI's clients, else all."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 20
    name: str | None = None
    """Only those that are called so."""
    group: str | None = None
    """Only those whose metadata name this group."""


@router.post("/v1/batches")
async def create_batch(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Make a batch of a file that is here; its lines are judged afterwards."""
    wanted, inline = await _read(request, services.config.limits.inline_size_bytes)
    asked = (describe_members(wanted),) if inline is None else (describe_members(wanted), inline.digest)
    attempt = read_attempt(request, services.metadata.database.now_ms(), "create", *asked)
    # First, since the file may be gone by the time that a request is sent again.
    batch = await services.turns.find_repeated(caller.owner, attempt)
    if batch is None:
        batch = await _create(request, services, caller, _Order(wanted, inline, attempt))
    return await answer_created(request, services, batch)


@router.get("/v1/batches")
async def list_batches(
    request: Request,
    services: ServicesOf,
    owner: Owner,
    wanted: Annotated[BatchQuery, Query()],
) -> Response:
    """The owner's batches, or those of a name, newest first: a page for OpenAI's clients, an array for Together's."""
    dialect = dialect_of_list(request)
    if dialect is Dialect.TOGETHER:
        batches = await services.metadata.list_batches(
            owner, limit=WHOLE_LIST_MAX, name=wanted.name, group=wanted.group
        )
        return JsonResponse([await _render(request, services, batch, dialect) for batch in batches])
    try:
        # One more than asked for tells whether there are more.
        found = await services.metadata.list_batches(
            owner, after=wanted.after, limit=wanted.limit + 1, name=wanted.name, group=wanted.group
        )
    except NotFound as error:
        raise NotFound(error.message, param="after") from None
    page = [await _render(request, services, batch, dialect) for batch in found[: wanted.limit]]
    return JsonResponse(render_list(page, has_more=len(found) > wanted.limit))


@router.get("/v1/batches/{batch_id}")
async def get_batch(batch_id: str, request: Request, services: ServicesOf, owner: Owner) -> Response:
    """One batch, not wrapped."""
    return JsonResponse(await _render(request, services, await services.metadata.get_batch(batch_id, owner)))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Stop a batch that has not ended."""
    batch = await services.turns.cancel(batch_id, caller.owner)
    services.audit.record(request.scope, "batch.cancel", caller, batch=batch.id)
    return JsonResponse(await _render(request, services, batch))


@router.post("/v1/batches/{batch_id}/pause")
async def pause_batch(batch_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Send no further line of a batch until it is resumed."""
    batch = await services.turns.pause(batch_id, caller.owner)
    services.audit.record(request.scope, "batch.pause", caller, batch=batch.id)
    return JsonResponse(await _render(request, services, batch))


@router.post("/v1/batches/{batch_id}/resume")
async def resume_batch(batch_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Go on with a paused batch."""
    batch = await services.turns.resume(batch_id, caller.owner)
    services.audit.record(request.scope, "batch.resume", caller, batch=batch.id)
    return JsonResponse(await _render(request, services, batch))


async def answer_created(request: Request, services: Services, batch: Batch) -> Response:
    """The answer to whatever made a batch."""
    rendered = await _render(request, services, batch)
    warning = warn_of_lateness(batch, await services.forecast(batch))
    if (named_dialect(request) or batch.dialect) is Dialect.OPENAI:
        return JsonResponse(rendered | ({"warning": warning} if warning else {}))
    return JsonResponse({"job": rendered, "warning": warning}, status_code=201)


class _Order(NamedTuple):
    """A create call that was read."""

    wanted: CreateBatch
    inline: InlineRequests | None
    attempt: Attempt


async def _read(request: Request, inline_bytes_max: int) -> tuple[CreateBatch, InlineRequests | None]:
    hint = " With requests in it that is the setting limits.inline_size_bytes; upload a file for more."
    body = await read_body(request, max(CREATE_BYTES_MAX, inline_bytes_max), hint)
    body, requests = take_out_requests(body) if len(body) <= inline_bytes_max else (body, None)
    if len(body) > CREATE_BYTES_MAX:
        message = f"The body is larger than the {CREATE_BYTES_MAX} bytes that it may have besides requests.{hint}"
        raise TooLarge(message, code="request_too_large")
    wanted = _parse(body)
    if wanted.requests is not None and len(body) > inline_bytes_max:
        message = f"The body is larger than {inline_bytes_max} bytes.{hint}"
        raise TooLarge(message, param="requests", code="request_too_large")
    if wanted.requests is not None:
        raise InvalidInput("The body is not valid JSON: it holds what is no JSON number or text.", param="requests")
    if (wanted.input_file_id is None) is (requests is None):
        told = "both" if requests is not None else "neither"
        message = (
            "Give either input_file_id, the id of an uploaded file, or requests, the requests themselves; "
            f"this body has {told}."
        )
        raise InvalidInput(message, param="input_file_id")
    # In a thread: it may be megabytes.
    return wanted, None if requests is None else await asyncio.to_thread(InlineRequests.read, requests)


def _parse(body: bytes) -> CreateBatch:
    if not body.strip():
        raise InvalidInput("The body is empty; send a JSON object with endpoint and input_file_id.")
    try:
        return CreateBatch.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None


async def _create(request: Request, services: Services, caller: Caller, order: _Order) -> Batch:
    wanted = order.wanted
    endpoint = check_endpoint(wanted.endpoint, services.config.listed_endpoints)
    limits = services.config.limits
    window_ms = round(limits.window_h * HOUR_MS)
    if wanted.completion_window is not None:
        window_ms = parse_window(wanted.completion_window, limits.window_min_h, limits.window_max_h)
    keep_s = wanted.output_expires_after.seconds if wanted.output_expires_after else None
    skips_invalid_lines = find_skips_invalid_lines(wanted.on_invalid_lines, wanted.metadata)
    if order.inline is None:
        file = await _find_file(services, wanted.input_file_id or "", caller.owner)
        dialect = dialect_of_file(request, file)
    else:
        dialect = dialect_of_requests(request)
        own_limits = find_limits(services.intake, caller)
        asked, keeps = (dialect, endpoint), (window_ms, keep_s)
        file = await order.inline.seal(services.intake, own_limits, caller.owner, asked, keeps)
    webhook_url, metadata = _find_webhook(wanted)
    made: Batch | None = None
    try:
        made = await services.turns.create(
            BatchRequest(
                owner=caller.owner,
                key_id=caller.key_id,
                endpoint=endpoint,
                input_file_id=file.id,
                file=file,
                completion_window=wanted.completion_window,
                model_id=wanted.model_id,
                priority=wanted.priority or 0,
                metadata=metadata,
                dialect=dialect,
                output_expires_after_s=keep_s,
                attempt=order.attempt,
                name=find_name(wanted.name, wanted.metadata),
                skips_invalid_lines=skips_invalid_lines,
                own_webhook_url=webhook_url,
            )
        )
    except NotFound as error:
        raise NotFound(error.message, param="input_file_id") from None
    else:
        return made
    finally:
        # The same call, sent twice at once, may have made its batch meanwhile: of a file of its own.
        if order.inline is not None and (made is None or made.input_file_id != file.id):
            await services.intake.remove(file.id)


async def _find_file(services: Services, file_id: str, owner: str) -> File:
    try:
        return await services.metadata.get_file(file_id, owner)
    except NotFound as error:
        raise NotFound(error.message, param="input_file_id") from None


def _find_webhook(wanted: CreateBatch) -> tuple[str | None, dict[str, str] | None]:
    """The batch's own address, and its metadata, which may name that but are shown to whoever sees the batch."""
    metadata = wanted.metadata
    if metadata is None or not metadata.get(_WEBHOOK_KEY):
        return wanted.webhook_url, metadata
    named = metadata[_WEBHOOK_KEY]
    return wanted.webhook_url or named, metadata | {_WEBHOOK_KEY: show_webhook_url(named)}


async def _render(request: Request, services: Services, batch: Batch, dialect: Dialect | None = None) -> dict[str, Any]:
    is_final = batch.state.is_final
    standing = Standing(batch.counts, batch.used) if is_final else await services.measure(batch)
    waiting = None if is_final else services.find_wait(batch)
    forecast = None if is_final else await services.forecast(batch)
    shown = dialect or named_dialect(request) or batch.dialect
    return render_batch(shown, batch, standing, waiting, forecast, services.config.money)
