"""Batches: create, look at, list, cancel. Who works on them and when is decided elsewhere."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from backfill.batch import Batch
from backfill.errors import InvalidInput, NotFound
from backfill.turns import BatchRequest, now_ms
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.errors import explain_validation
from backfill.web.api.keys import Owner
from backfill.web.api.services import Services, ServicesOf
from backfill.wire.together import render_batch

__all__ = ["router"]

CREATE_BYTES_MAX = 64 * 1024
# Clients of this dialect do not page; they sort and cut what they get.
LIST_MAX = 10_000
REPEAT_WINDOW_MS = 120_000
_REPEAT_CANDIDATES = 100
_PRIORITY_MAX = 2**31 - 1

router = APIRouter()


class _CreateBatch(BaseModel):
    """The body of POST /v1/batches. Members that are not known are for other servers, and are let pass."""

    model_config = ConfigDict(strict=True, extra="ignore")

    endpoint: str
    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    completion_window: str | None = None
    model_id: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    priority: Annotated[int, Field(ge=-_PRIORITY_MAX, le=_PRIORITY_MAX)] | None = None


@router.post("/v1/batches")
async def create_batch(request: Request, services: ServicesOf, owner: Owner) -> Response:
    """Make a batch of a file that is here; its lines are judged afterwards."""
    wanted = _parse(await read_body(request, CREATE_BYTES_MAX))
    batch = await _find_repeated(request, services, owner, wanted)
    if batch is None:
        batch = await _create(services, owner, wanted)
    return JsonResponse({"job": await _render(services, batch), "warning": None}, status_code=201)


@router.get("/v1/batches")
async def list_batches(services: ServicesOf, owner: Owner) -> Response:
    """The owner's batches, newest first, as a bare array."""
    batches = await services.metadata.list_batches(owner, limit=LIST_MAX)
    return JsonResponse([await _render(services, batch) for batch in batches])


@router.get("/v1/batches/{batch_id}")
async def get_batch(batch_id: str, services: ServicesOf, owner: Owner) -> Response:
    """One batch, not wrapped."""
    return JsonResponse(await _render(services, await services.metadata.get_batch(batch_id, owner)))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: str, services: ServicesOf, owner: Owner) -> Response:
    """Stop a batch that has not ended."""
    return JsonResponse(await _render(services, await services.turns.cancel(batch_id, owner)))


def _parse(body: bytes) -> _CreateBatch:
    if not body.strip():
        raise InvalidInput("The body is empty; send a JSON object with endpoint and input_file_id.")
    try:
        return _CreateBatch.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None


async def _create(services: Services, owner: str, wanted: _CreateBatch) -> Batch:
    try:
        return await services.turns.create(
            BatchRequest(
                owner=owner,
                endpoint=wanted.endpoint,
                input_file_id=wanted.input_file_id,
                completion_window=wanted.completion_window,
                model_id=wanted.model_id,
                priority=wanted.priority or 0,
            )
        )
    except NotFound as error:
        raise NotFound(error.message, param="input_file_id") from None


async def _find_repeated(request: Request, services: Services, owner: str, wanted: _CreateBatch) -> Batch | None:
    """The batch that this request made when it was sent before.

    Clients send no idempotency key, but they count their tries: a second one means that the answer to the first was
    lost, not that the file shall run twice.
    """
    if request.headers.get("x-stainless-retry-count", "0") == "0":
        return None
    earliest_ms = now_ms() - REPEAT_WINDOW_MS
    for batch in await services.metadata.list_batches(owner, limit=_REPEAT_CANDIDATES):
        same = (batch.input_file_id, batch.endpoint) == (wanted.input_file_id, wanted.endpoint)
        if same and batch.created_at_ms >= earliest_ms:
            return batch
    return None


async def _render(services: Services, batch: Batch) -> dict[str, object]:
    return render_batch(batch, batch.counts if batch.state.is_final else await services.count(batch))
