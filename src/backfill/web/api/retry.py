"""Why lines failed, and a new batch of those lines of an ended one that have no answer: of all, or of some kind."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from backfill.batch import Batch, State
from backfill.errors import Conflict, InputLost, InvalidInput, NotFound
from backfill.intake import FailureChoice, copy_failed_lines, group_failures
from backfill.turns import Attempt, now_ms
from backfill.web.api.batches import BatchMetadata, answer_created
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.errors import explain_validation
from backfill.web.api.idempotency import read_attempt
from backfill.web.api.keys import CallerOf, Owner
from backfill.web.api.services import Services, ServicesOf
from backfill.wire.failures import render_group

__all__ = ["RetryBatch", "retry_failed", "router"]

# Metadata of the largest size, each character of it escaped, is 110 kB.
_BODY_BYTES_MAX = 256 * 1024

router = APIRouter()


_Word = Annotated[str, Field(min_length=1, max_length=256)]


class RetryBatch(BaseModel):
    """Which of the failed lines are meant; without a body all are."""

    model_config = ConfigDict(strict=True, extra="forbid")

    code: _Word | None = None
    """The code that stands in the error file."""
    group: _Word | None = None
    """The id of a group of failures."""
    metadata: BatchMetadata | None = None
    """Of the new batch, beside or instead of what the ended one has."""


@router.get("/v1/batches/{batch_id}/failures")
async def list_failures(batch_id: str, services: ServicesOf, owner: Owner) -> Response:
    """The failed lines by code and message, largest group first; of a batch that runs those that failed so far."""
    batch = await services.metadata.get_batch(batch_id, owner)
    try:
        await services.intake.inputs.check_index(batch)
        async with services.intake.journal_holds.reading(batch.id):
            groups = await asyncio.to_thread(group_failures, services.blobs, batch)
    except (NotFound, InputLost):
        message = f"The input file of batch {batch.id} is gone; what failed stands in its error file."
        raise Conflict(message, code="input_file_deleted") from None
    return JsonResponse({"object": "list", "data": [render_group(group) for group in groups]})


@router.post("/v1/batches/{batch_id}/retry")
async def retry_batch(batch_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Make a batch like an ended one, of the lines that failed in it."""
    wanted = _read_wanted(await read_body(request, _BODY_BYTES_MAX))
    choice = FailureChoice(wanted.code, wanted.group)
    asked: tuple[object, ...] = (batch_id, *choice) if any(choice) else (batch_id,)
    if wanted.metadata:
        asked += (wanted.metadata,)
    attempt = read_attempt(request, services.metadata.database.now_ms(), "retry", *asked)
    ended = await services.metadata.get_batch(batch_id, caller.owner)
    made = await services.turns.find_repeated(caller.owner, attempt)
    if made is None:
        made = await retry_failed(services, ended, choice, attempt, caller.key_id, wanted.metadata)
    return await answer_created(request, services, made)


def _read_wanted(body: bytes) -> RetryBatch:
    if not body:
        return RetryBatch()
    try:
        return RetryBatch.model_validate_json(body)
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None


def _check_failed(batch: Batch) -> None:
    """Raises Conflict unless the batch has ended and lines of it failed."""
    if not batch.state.is_final:
        raise Conflict(
            f"The batch {batch.id} has not ended; what will have failed is not known yet.", code="batch_not_ended"
        )
    if batch.state is State.FAILED and batch.started_at_ms is None:
        raise Conflict(
            f"The batch {batch.id} was rejected before a line was sent; upload a corrected file for a new batch.",
            code="nothing_to_retry",
        )
    if batch.counts.failed == 0:
        raise Conflict(f"No line of batch {batch.id} failed.", code="nothing_to_retry")


async def retry_failed(
    services: Services,
    ended: Batch,
    choice: FailureChoice,
    attempt: Attempt,
    key_id: str | None,
    metadata: dict[str, str] | None = None,
) -> Batch:
    """A new batch of those lines of an ended one that failed and are meant; raises Conflict if there are none."""
    _check_failed(ended)
    try:
        source = await services.metadata.get_file(ended.input_file_id, ended.owner)
        await services.intake.inputs.check_content(ended)
        async with services.intake.journal_holds.reading(ended.id):
            file = await copy_failed_lines(services.intake, ended, source, now_ms(), choice)
    except NotFound:
        message = f"The input file of batch {ended.id} was deleted; upload the lines again to run them."
        raise Conflict(message, code="input_file_deleted") from None
    except InputLost as error:
        raise Conflict(error.message, code=error.code) from None
    made: Batch | None = None
    try:
        made = await services.turns.retry(ended, file, attempt, key_id, metadata)
        return made
    finally:
        # The same request, sent twice at once, may have made its batch meanwhile: of a copy of its own.
        if made is None or made.input_file_id != file.id:
            await services.intake.remove(file.id)
