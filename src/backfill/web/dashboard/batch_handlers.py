"""The page of one batch, what can be done to it, and what can be fetched of it."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from backfill.errors import InvalidInput
from backfill.intake import FailureChoice
from backfill.store import content_key
from backfill.tables import Form
from backfill.turns import Attempt
from backfill.web.api.content import BlobResponse
from backfill.web.api.results import open_stream, open_table
from backfill.web.api.retry import retry_failed
from backfill.web.dashboard.batch_page import build_batch, build_lines, find_batch, find_sources, write_curl
from backfill.web.dashboard.visit import HEADERS, ROOT, Visit

__all__ = [
    "cancel_batch",
    "pause_batch",
    "resume_batch",
    "retry_batch",
    "send_csv",
    "send_file",
    "send_parquet",
    "send_partial_results",
    "show_batch",
]

_WORD_LENGTH = 256


async def show_batch(visit: Visit) -> Response:
    """The page."""
    visit.check("GET", "/v1/batches/{batch_id}")
    query, batch_id = visit.request.query_params, visit.request.path_params["batch_id"]
    first = query.get("first") or "0"
    if not (first.isascii() and first.isdigit() and len(first) <= 9):
        raise InvalidInput("first must be a number of 0 or more.", param="first")
    context = await build_batch(visit.house, visit.owner, batch_id)
    context |= await build_lines(
        visit.house,
        visit.owner,
        batch_id,
        first=int(first),
        kind=query.get("kind", ""),
        sought=query.get("custom_id", "")[:_WORD_LENGTH],
    )
    root = visit.house.services.config.server.public_url or str(visit.request.base_url)
    context["curl"] = write_curl(context["batch"], root.rstrip("/").removesuffix("/v1"))
    context |= await find_sources(visit.house, context["batch"])
    live = None if context["is_final"] else f"{ROOT}/events?page=batch&batch={batch_id}"
    return visit.show("batch.html", context | {"live": live})


async def cancel_batch(visit: Visit) -> Response:
    """Stop it."""
    return await _move(visit, "cancel", visit.house.services.turns.cancel)


async def pause_batch(visit: Visit) -> Response:
    """Send nothing more of it for now."""
    return await _move(visit, "pause", visit.house.services.turns.pause)


async def resume_batch(visit: Visit) -> Response:
    """Go on with it."""
    return await _move(visit, "resume", visit.house.services.turns.resume)


async def _move(visit: Visit, action: str, move: Callable[[str, str], Awaitable[object]]) -> Response:
    visit.check("POST", f"/v1/batches/{{batch_id}}/{action}")
    await visit.read_form()
    batch = await find_batch(visit.house, visit.request.path_params["batch_id"], visit.owner)
    await move(batch.id, batch.owner)
    visit.house.services.audit.record(visit.request.scope, f"batch.{action}", visit.caller, batch=batch.id)
    return visit.go(f"{ROOT}/batches/{batch.id}")


async def retry_batch(visit: Visit) -> Response:
    """Run what failed in it again, or those of one group."""
    visit.check("POST", "/v1/batches/{batch_id}/retry")
    form = (await visit.read_form()).values
    services = visit.house.services
    batch = await find_batch(visit.house, visit.request.path_params["batch_id"], visit.owner)
    choice = FailureChoice(group=form.get("group", "")[:_WORD_LENGTH] or None)
    once = form.get("once", "")[:64]
    attempt = Attempt(digest=f"dashboard retry {batch.id} {choice.group}", key=f"dashboard-{once}-{choice.group}")
    made = await services.turns.find_repeated(batch.owner, attempt)
    if made is None:
        made = await retry_failed(services, batch, choice, attempt, visit.caller.key_id)
    return visit.go(f"{ROOT}/batches/{made.id}")


async def send_file(visit: Visit) -> Response:
    """A file as it is: input, answers or errors."""
    visit.check("GET", "/v1/files/{file_id}/content")
    services = visit.house.services
    file = await services.metadata.get_file(visit.request.path_params["file_id"], visit.owner)
    reader = await asyncio.to_thread(services.blobs.open, content_key(file.id))
    headers = _name_download(file.filename) | {"content-length": str(file.size_bytes)}
    response = BlobResponse(reader, 0, file.size_bytes, status_code=200, headers=headers)
    await response.begin()
    return response


async def send_partial_results(visit: Visit) -> Response:
    """The lines that are finished so far, as the API's stream of results has them."""
    visit.check("GET", "/v1/batches/{batch_id}/results")
    services = visit.house.services
    batch = await find_batch(visit.house, visit.request.path_params["batch_id"], visit.owner)
    response = await open_stream(services, batch, 0, None)
    response.headers.update(_name_download(f"{batch.id}_so_far.jsonl"))
    return response


async def send_csv(visit: Visit) -> Response:
    """All rows with what became of them, as they are now."""
    return await _send_table(visit, Form.CSV, "csv")


async def send_parquet(visit: Visit) -> Response:
    """The same as Parquet."""
    return await _send_table(visit, Form.PARQUET, "parquet")


async def _send_table(visit: Visit, form: Form, ending: str) -> Response:
    visit.check("GET", "/v1/batches/{batch_id}/results")
    batch = await find_batch(visit.house, visit.request.path_params["batch_id"], visit.owner)
    response = await open_table(visit.house.services, batch, form)
    so_far = "" if batch.state.is_final else "_so_far"
    response.headers.update(_name_download(f"{batch.name or batch.id}{so_far}.{ending}"))
    return response


def _name_download(filename: str) -> dict[str, str]:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in filename) or "file"
    return HEADERS | {"content-disposition": f'attachment; filename="{plain}"'}
