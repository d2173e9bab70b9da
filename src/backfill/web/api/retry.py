"""Retry only what failed: a new batch of those lines of an ended one that have no answer."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from backfill.batch import Batch, State
from backfill.errors import Conflict, NotFound
from backfill.intake import copy_failed_lines
from backfill.turns import Attempt, now_ms
from backfill.web.api.batches import answer_created
from backfill.web.api.idempotency import read_attempt
from backfill.web.api.keys import Owner
from backfill.web.api.services import Services, ServicesOf

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/batches/{batch_id}/retry")
async def retry_batch(batch_id: str, request: Request, services: ServicesOf, owner: Owner) -> Response:
    """Make a batch like an ended one, of the lines that failed in it."""
    attempt = read_attempt(request, "retry", batch_id)
    ended = await services.metadata.get_batch(batch_id, owner)
    made = await services.turns.find_repeated(owner, attempt)
    if made is None:
        _check_failed(ended)
        made = await _retry(services, ended, attempt)
    return await answer_created(request, services, made)


def _check_failed(batch: Batch) -> None:
    """Raises Conflict unless the batch has ended and lines of it failed."""
    if not batch.state.is_final:
        raise Conflict(
            f"The batch {batch.id} has not ended; what will have failed is not known yet.", code="batch_not_ended"
        )
    if batch.state is State.FAILED:
        raise Conflict(
            f"The batch {batch.id} was rejected before a line was sent; upload a corrected file for a new batch.",
            code="nothing_to_retry",
        )
    if batch.counts.failed == 0:
        raise Conflict(f"No line of batch {batch.id} failed.", code="nothing_to_retry")


async def _retry(services: Services, ended: Batch, attempt: Attempt) -> Batch:
    try:
        source = await services.metadata.get_file(ended.input_file_id, ended.owner)
        file = await copy_failed_lines(services.intake, ended, source, now_ms())
    except NotFound:
        message = f"The input file of batch {ended.id} was deleted; upload the lines again to run them."
        raise Conflict(message, code="input_file_deleted") from None
    made: Batch | None = None
    try:
        made = await services.turns.retry(ended, file, attempt)
        return made
    finally:
        # The same request, sent twice at once, may have made its batch meanwhile: of a copy of its own.
        if made is None or made.input_file_id != file.id:
            await services.intake.remove(file.id)
