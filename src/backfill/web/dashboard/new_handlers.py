"""The pages on which a batch is made: of a file of requests, or of a table."""

import secrets

from starlette.responses import JSONResponse, Response

from backfill.batch import File
from backfill.errors import InvalidInput
from backfill.purposes import TABLE_PURPOSE
from backfill.web.dashboard.forms import PROMPTS_BYTES_MAX, read_sent_file
from backfill.web.dashboard.new_batch import describe_file, read_order, receive_file
from backfill.web.dashboard.new_table import TableForm, build_preview, build_table, start_table
from backfill.web.dashboard.visit import HEADERS, ROOT, Visit

__all__ = ["preview_table", "receive_new", "show_file", "show_new", "start_batch"]

_MAKE = "/v1/files/{file_id}/requests"


async def show_new(visit: Visit) -> Response:
    """Where a file is dropped."""
    visit.check("POST", "/v1/files")
    return visit.show("new.html", {"title": "New batch"})


async def receive_new(visit: Visit) -> Response:
    """Take the file; a page that shows its own progress is told where to go on, another one is sent there."""
    visit.check("POST", "/v1/files")
    sent = await read_sent_file(visit.request)
    visit.check_token(sent.values.get("token", ""))
    file = await receive_file(visit.house, visit.caller, sent.filename, sent.pieces)
    path = f"{ROOT}/new/{file.id}"
    if _wants_json(visit):
        return JSONResponse({"path": path}, headers=HEADERS)
    return visit.go(path)


async def show_file(visit: Visit) -> Response:
    """What is in the file, what is wrong with it, and what it would take."""
    visit.check("POST", "/v1/batches")
    file = await _find_file(visit)
    if file.purpose == TABLE_PURPOSE:
        return await _show_table(visit, file, TableForm())
    if not file.survey:
        raise InvalidInput("This file is no input of a batch.", param="file")
    context = await describe_file(visit.house, visit.caller, file)
    return visit.show("new_requests.html", context | {"title": "New batch", "once": secrets.token_urlsafe(16)})


async def preview_table(visit: Visit) -> Response:
    """What the first rows of a table would ask, and what all of them would take."""
    visit.check("POST", _MAKE)
    form = TableForm.read((await visit.read_form(PROMPTS_BYTES_MAX)).values)
    file = await _find_file(visit)
    if not _wants_json(visit):
        return await _show_table(visit, file, form, with_preview=True)
    preview = await build_preview(visit.house, visit.caller, file, form)
    told = visit.house.render("new/preview.html", {"preview": preview})
    return JSONResponse({"html": told, "state": preview.state}, headers=HEADERS)


async def start_batch(visit: Visit) -> Response:
    """Make the batch; where that cannot be, the page says why and keeps what was written."""
    visit.check("POST", "/v1/batches")
    values = (await visit.read_form(PROMPTS_BYTES_MAX)).values
    file = await _find_file(visit)
    if file.purpose != TABLE_PURPOSE:
        services = visit.house.services
        order = read_order(visit.house, visit.caller, file, values)
        found = await services.turns.find_repeated(visit.caller.owner, order.attempt)
        return visit.go(f"{ROOT}/batches/{(found or await services.turns.create(order)).id}")
    visit.check("POST", _MAKE)
    form = TableForm.read(values)
    try:
        made = await start_table(visit.house, visit.caller, file, form)
    except InvalidInput as error:
        return await _show_table(visit, file, form, message=error.message)
    return visit.go(f"{ROOT}/batches/{made.id}")


async def _show_table(
    visit: Visit, file: File, form: TableForm, *, with_preview: bool = False, message: str = ""
) -> Response:
    context = await build_table(visit.house, file, form)
    preview = await build_preview(visit.house, visit.caller, file, form) if with_preview else None
    own = {"title": "New batch", "once": form.once or secrets.token_urlsafe(16), "message": message, "preview": preview}
    return visit.show("new_table.html", context | own, 400 if message else 200)


async def _find_file(visit: Visit) -> File:
    return await visit.house.services.metadata.get_file(visit.request.path_params["file_id"], visit.caller.owner)


def _wants_json(visit: Visit) -> bool:
    return visit.request.headers.get("accept", "").startswith("application/json")
