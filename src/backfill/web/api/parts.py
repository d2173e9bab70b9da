"""Files in parts, in both dialects: Together's signed address for each part, and OpenAI's Uploads API."""

import re
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.responses import Response

from backfill.batch import File, FileStatus
from backfill.errors import InvalidInput
from backfill.intake import (
    Part,
    PartUploads,
    PartWriter,
    StartedUpload,
    UploadPlan,
    make_part_error,
    new_file_id,
    new_part_id,
    upload_id_of,
)
from backfill.turns import now_ms
from backfill.web.api.bodies import JsonResponse, read_body
from backfill.web.api.dialects import allowed_purposes, render_file
from backfill.web.api.errors import explain_validation
from backfill.web.api.file_limits import find_limits
from backfill.web.api.keys import CallerOf, Owner
from backfill.web.api.multipart import FileBytes, FilePart, FormReader
from backfill.web.api.services import ServicesOf
from backfill.web.api.signing import check_signature, make_part_urls, part_subject
from backfill.web.api.uploads import (
    EXPIRY_RANGE_S,
    FORM_OVERHEAD_BYTES_MAX,
    check_announced,
    check_purpose,
    clean_filename,
)
from backfill.wire.openai import render_upload, render_upload_part

__all__ = [
    "PART_COUNT_MAX",
    "AbortParts",
    "CompleteParts",
    "CompleteUpload",
    "CreateUpload",
    "InitiateParts",
    "router",
]

BODY_BYTES_MAX = 1024 * 1024
# Together's clients make at most 250.
PART_COUNT_MAX = 1000
# OpenAI's clients make a part of each 64 MB.
PART_IDS_MAX = 10_000
_PART_FIELD = "data"

router = APIRouter()

_Size = Annotated[int, Field(ge=1, le=2**53)]
_Name = Annotated[str, Field(min_length=1, max_length=4096)]
_Id = Annotated[str, Field(min_length=1, max_length=128)]


def _check_digest(digits: int, of: str) -> AfterValidator:
    def check(value: str) -> str:
        if value and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
            raise ValueError(f"must be {of} of the bytes as {digits} hexadecimal digits")
        return value

    return AfterValidator(check)


_Sha256 = Annotated[
    str, _check_digest(64, "the SHA-256"), WithJsonSchema({"type": "string", "pattern": "^([0-9a-fA-F]{64})?$"})
]
_Md5 = Annotated[
    str, _check_digest(32, "the MD5"), WithJsonSchema({"type": "string", "pattern": "^([0-9a-fA-F]{32})?$"})
]


class _Request(BaseModel):
    """Members that are not known are for other servers, and are let pass."""

    model_config = ConfigDict(strict=True, extra="ignore")


class InitiateParts(_Request):
    """The body of POST /v1/files/multipart/initiate."""

    file_name: _Name
    file_size: _Size
    num_parts: Annotated[int, Field(ge=1, le=PART_COUNT_MAX)]
    purpose: str
    file_type: Literal["jsonl"] = "jsonl"
    checksum: _Sha256 | None = None


class _SentPart(_Request):
    part_number: Annotated[int, Field(ge=1, le=PART_COUNT_MAX)]
    etag: Annotated[str, Field(min_length=1, max_length=128)]


class CompleteParts(_Request):
    """The body of POST /v1/files/multipart/complete."""

    upload_id: _Id
    file_id: _Id
    parts: Annotated[list[_SentPart], Field(min_length=1, max_length=PART_COUNT_MAX)]


class AbortParts(_Request):
    """The body of POST /v1/files/multipart/abort."""

    upload_id: _Id
    file_id: _Id


class _KeptFor(_Request):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=EXPIRY_RANGE_S[0], le=EXPIRY_RANGE_S[1])]


class CreateUpload(_Request):
    """The body of POST /v1/uploads."""

    filename: _Name
    bytes: _Size
    mime_type: str = ""
    purpose: str
    expires_after: _KeptFor | None = None


class CompleteUpload(_Request):
    """The body of POST /v1/uploads/{upload_id}/complete."""

    part_ids: Annotated[list[_Id], Field(min_length=1, max_length=PART_IDS_MAX)]
    md5: _Md5 | None = None


class _Address(BaseModel):
    """What is signed in the address of a part."""

    expires: str = ""
    signature: str = ""


# A dependency is a coroutine, or each request would wait for a worker thread.
async def _get_part_uploads(services: ServicesOf) -> PartUploads:
    return PartUploads(services.intake, services.metadata)


_PartUploadsOf = Annotated[PartUploads, Depends(_get_part_uploads)]
_Body = TypeVar("_Body", bound=BaseModel)


@router.post("/v1/files/multipart/initiate")
async def initiate_parts(request: Request, services: ServicesOf, uploads: _PartUploadsOf, caller: CallerOf) -> Response:
    """Reserve a file, and give an address for each of its parts."""
    wanted = await _read(request, InitiateParts)
    draft = _make_draft(request, caller.owner, wanted.file_name, wanted.purpose, (wanted.checksum or "").lower())
    server = services.config.server
    # Before anything is kept: the address of this server may not be known.
    urls = make_part_urls(request, server, services.signing_key, upload_id_of(draft.id), wanted.num_parts)
    expires_at_ms = draft.created_at_ms + server.upload_url_valid_s * 1000
    plan = UploadPlan(size_bytes=wanted.file_size, expires_at_ms=expires_at_ms, part_count=wanted.num_parts)
    upload = await uploads.start(draft, plan, find_limits(services.intake, caller))
    parts = [{"PartNumber": number, "URL": url, "Headers": {}} for number, url in enumerate(urls, start=1)]
    return JsonResponse({"upload_id": upload.upload_id, "file_id": upload.file.id, "parts": parts})


@router.put("/v1/uploads/{upload_id}/parts/{part_number}")
async def receive_part(
    upload_id: str,
    part_number: Annotated[int, Field(ge=1, le=PART_COUNT_MAX)],
    request: Request,
    services: ServicesOf,
    uploads: _PartUploadsOf,
    address: Annotated[_Address, Query()],
) -> Response:
    """Take the bytes of one part; the address is the permission. The same part can be sent again."""
    check_signature(services.signing_key, part_subject(upload_id, part_number), address.expires, address.signature)
    upload = await uploads.find(upload_id)
    check_announced(request, upload.plan.size_bytes, make_part_error(upload.plan.size_bytes))
    writer = await uploads.receive(upload, _name_of(part_number))
    try:
        async for chunk in request.stream():
            await writer.feed(chunk)
        return Response(headers={"etag": f'"{await writer.seal()}"'})
    finally:
        writer.abort()


@router.post("/v1/files/multipart/complete")
async def complete_parts(request: Request, services: ServicesOf, uploads: _PartUploadsOf, caller: CallerOf) -> Response:
    """Make one file of all parts."""
    wanted = await _read(request, CompleteParts)
    upload = await _find(uploads, wanted, caller.owner)
    limits = find_limits(services.intake, caller)
    file = await uploads.complete(upload, _in_order(upload, wanted.parts), limits=limits)
    return JsonResponse({"file": render_file(request, file)})


@router.post("/v1/files/multipart/abort")
async def abort_parts(request: Request, uploads: _PartUploadsOf, owner: Owner) -> Response:
    """Forget an upload and remove its parts."""
    wanted = await _read(request, AbortParts)
    upload = await _find(uploads, wanted, owner)
    await uploads.cancel(upload)
    return JsonResponse({"upload_id": upload.upload_id, "file_id": upload.file.id, "aborted": True})


@router.post("/v1/uploads")
async def create_upload(request: Request, services: ServicesOf, uploads: _PartUploadsOf, caller: CallerOf) -> Response:
    """Begin a file whose parts come one by one."""
    wanted = await _read(request, CreateUpload)
    draft = _make_draft(request, caller.owner, wanted.filename, wanted.purpose)
    plan = UploadPlan(
        size_bytes=wanted.bytes,
        expires_at_ms=draft.created_at_ms + services.config.server.upload_url_valid_s * 1000,
        keep_s=wanted.expires_after.seconds if wanted.expires_after else None,
    )
    started = await uploads.start(draft, plan, find_limits(services.intake, caller))
    return JsonResponse(_render(started, "pending"))


@router.post("/v1/uploads/{upload_id}/parts")
async def add_part(upload_id: str, request: Request, uploads: _PartUploadsOf, owner: Owner) -> Response:
    """Take one part, as the form part `data`; its id says later where it stands."""
    upload = await uploads.find(upload_id, owner)
    announced_bytes = upload.plan.size_bytes
    check_announced(request, announced_bytes + FORM_OVERHEAD_BYTES_MAX, make_part_error(announced_bytes))
    reader = FormReader(request.headers.get("content-type", ""), _PART_FIELD)
    part_id = new_part_id()
    writer: PartWriter | None = None
    try:
        async for chunk in request.stream():
            for event in reader.feed(chunk):
                match event:
                    case FilePart():
                        writer = await uploads.receive(upload, part_id)
                    case FileBytes(data) if writer is not None:
                        await writer.feed(data)
        reader.finish()
        if writer is None:
            raise InvalidInput(f"The form has no part named {_PART_FIELD!r}.", param=_PART_FIELD)
        await writer.seal()
    finally:
        if writer is not None:
            writer.abort()
    return JsonResponse(render_upload_part(part_id, upload.upload_id, now_ms()))


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(
    upload_id: str, request: Request, services: ServicesOf, uploads: _PartUploadsOf, caller: CallerOf
) -> Response:
    """Make one file of these parts, in this order."""
    wanted = await _read(request, CompleteUpload)
    upload = await uploads.find(upload_id, caller.owner)
    parts = [Part(part_id) for part_id in wanted.part_ids]
    limits = find_limits(services.intake, caller)
    file = await uploads.complete(upload, parts, md5=wanted.md5 or None, limits=limits)
    return JsonResponse(_render(StartedUpload(file, upload.plan), "completed"))


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(upload_id: str, uploads: _PartUploadsOf, owner: Owner) -> Response:
    """Forget an upload and remove its parts."""
    upload = await uploads.find(upload_id, owner)
    await uploads.cancel(upload)
    return JsonResponse(_render(upload, "cancelled"))


async def _read(request: Request, model: type[_Body]) -> _Body:
    try:
        return model.model_validate_json(await read_body(request, BODY_BYTES_MAX))
    except ValidationError as error:
        message, param = explain_validation(error.errors(include_url=False, include_input=False))
        raise InvalidInput(message, param=param) from None


def _make_draft(request: Request, owner: str, filename: str, purpose: str, sha256: str = "") -> File:
    return File(
        id=new_file_id(),
        owner=owner,
        filename=clean_filename(filename),
        purpose=check_purpose({"purpose": purpose}, allowed_purposes(request)),
        status=FileStatus.RESERVED,
        created_at_ms=now_ms(),
        sha256=sha256,
    )


async def _find(uploads: PartUploads, wanted: CompleteParts | AbortParts, owner: str) -> StartedUpload:
    upload = await uploads.find(wanted.upload_id, owner)
    if upload.file.id != wanted.file_id:
        raise InvalidInput(f"The upload {wanted.upload_id} is not of the file {wanted.file_id}.", param="file_id")
    return upload


def _in_order(upload: StartedUpload, parts: list[_SentPart]) -> list[Part]:
    """The parts from the first to the last; raises InvalidInput unless the client names each once."""
    etags = {part.part_number: part.etag for part in parts}
    numbers = range(1, (upload.plan.part_count or 0) + 1)
    missing = next((number for number in numbers if number not in etags), None)
    if missing is not None:
        raise InvalidInput(f"Part {missing} of {len(numbers)} is not named.", param="parts", code="missing_part")
    if len(parts) > len(numbers):
        raise InvalidInput(f"The upload has {len(numbers)} parts; {len(parts)} are named.", param="parts")
    return [Part(_name_of(number), etags[number]) for number in numbers]


def _name_of(part_number: int) -> str:
    return str(part_number)


def _render(upload: StartedUpload, status: str) -> dict[str, Any]:
    file, plan = upload
    return render_upload(
        upload.upload_id, file, size_bytes=plan.size_bytes, expires_at_ms=plan.expires_at_ms, status=status
    )
