"""Files that are here: list, look up, download, delete."""

import asyncio
import re
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from backfill.batch import File, FileStatus
from backfill.errors import Conflict, NotFound
from backfill.purposes import OPAQUE_PURPOSES
from backfill.store import content_key
from backfill.web.api.bodies import JsonResponse
from backfill.web.api.content import BlobResponse
from backfill.web.api.dialects import render_file
from backfill.web.api.head import is_head
from backfill.web.api.keys import CallerOf, Owner
from backfill.web.api.services import ServicesOf
from backfill.wire.openai import render_list

__all__ = ["router"]

LIST_MAX = 10_000
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

router = APIRouter()


class _Span(NamedTuple):
    """Bytes `offset` to `offset + length` of a file."""

    offset: int
    length: int


class _Page(BaseModel):
    """Which files to list."""

    purpose: str | None = None
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = LIST_MAX
    order: Literal["asc", "desc"] = "desc"


@router.get("/v1/files")
async def list_files(request: Request, services: ServicesOf, owner: Owner, page: Annotated[_Page, Query()]) -> Response:
    """The owner's files. Clients that page go on until `has_more` is false."""
    try:
        # One more than asked for tells whether there are more.
        found = await services.metadata.list_files(
            owner, purpose=page.purpose, after=page.after, limit=page.limit + 1, newest_first=page.order == "desc"
        )
    except NotFound as error:
        raise NotFound(error.message, param="after") from None
    files = found[: page.limit]
    return JsonResponse(render_list([render_file(request, file) for file in files], has_more=len(found) > page.limit))


@router.get("/v1/files/{file_id}")
async def get_file(file_id: str, request: Request, services: ServicesOf, owner: Owner) -> Response:
    """One file."""
    return JsonResponse(render_file(request, await services.metadata.get_file(file_id, owner)))


@router.post("/v1/files/{file_id}/preprocess")
async def preprocess_file(file_id: str, request: Request, services: ServicesOf, owner: Owner) -> Response:
    """What clients call after their PUT. A file is complete with the PUT, so that nothing is left to do."""
    return JsonResponse(render_file(request, await services.metadata.get_file(file_id, owner)))


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """Remove a file that no running batch reads."""
    file = await services.metadata.get_file(file_id, caller.owner)
    batch_id = await services.metadata.uses_file(file.id)
    if batch_id is not None:
        raise Conflict(f"The file {file.id} is read by batch {batch_id}, which has not ended.", code="file_in_use")
    async with services.intake.lock_if_free(file.id) as is_free:
        if not is_free or services.intake.is_receiving(file.id):
            raise Conflict(f"The file {file.id} is being uploaded.", code="upload_in_progress")
        if not await services.intake.remove(file.id):
            raise Conflict(f"The file {file.id} is read by a batch that was just made.", code="file_in_use")
    services.audit.record(request.scope, "file.delete", caller, file=file.id)
    return JsonResponse({"id": file.id, "object": "file", "deleted": True})


@router.get("/v1/files/{file_id}/content")
async def download_file(file_id: str, request: Request, services: ServicesOf, owner: Owner) -> Response:
    """The file's bytes, or one range of them."""
    file = await services.metadata.get_file(file_id, owner)
    if file.status is not FileStatus.SEALED:
        raise Conflict(f"The file {file.id} has no content yet: no bytes were uploaded.", code="file_not_uploaded")
    etag = f'"{file.sha256}"' if file.sha256 else None
    span = _find_span(request, file, etag)
    try:
        reader = await asyncio.to_thread(services.blobs.open, content_key(file.id))
    except NotFound:
        # It was deleted since its row was read.
        raise NotFound(f"No such file: {file.id}.", param="file_id") from None
    whole = _Span(0, file.size_bytes)
    headers = {
        # What a browser would take the bytes for is not for whoever uploaded them to say.
        "content-type": "application/octet-stream" if file.purpose in OPAQUE_PURPOSES else "application/jsonl",
        "content-length": str((span or whole).length),
        "content-disposition": _attach(file.filename),
        "accept-ranges": "bytes",
    }
    if etag:
        headers["etag"] = etag
    if span:
        headers["content-range"] = f"bytes {span.offset}-{span.offset + span.length - 1}/{file.size_bytes}"
    response = BlobResponse(reader, *(span or whole), status_code=206 if span else 200, headers=headers)
    if not is_head(request.scope):
        await response.begin()
    return response


def _find_span(request: Request, file: File, etag: str | None) -> _Span | None:
    """The single range that was asked for; None for the whole file. Raises a 416 if it lies behind the end."""
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    # A range is of a GET; a HEAD tells of the whole (RFC 9110, 14.2).
    if match is None or not (match[1] or match[2]) or is_head(request.scope):
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    size = file.size_bytes
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, end = max(size - int(match[2]), 0), size - 1
    if start > end:
        raise HTTPException(416, f"The file has {size} bytes.", headers={"content-range": f"bytes */{size}"})
    return _Span(start, end - start + 1)


def _attach(filename: str) -> str:
    """A Content-Disposition for any name: plain for old readers, exact for the rest (RFC 6266)."""
    plain = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in filename)
    plain = plain.replace("\\", "_").replace('"', "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
