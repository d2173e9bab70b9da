"""The ways in: POST /v1/files with the file in it, or first an address and then a PUT of the bytes."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import Response

from backfill.batch import File, FileStatus
from backfill.errors import InvalidInput, TooLarge
from backfill.intake import Intake, Upload, new_file_id
from backfill.turns import now_ms
from backfill.web.api.bodies import JsonResponse, content_length, read_body
from backfill.web.api.dialects import allowed_purposes, render_file
from backfill.web.api.keys import Owner
from backfill.web.api.multipart import FIELDS_MAX, FileBytes, FilePart, FormField, FormReader
from backfill.web.api.services import Services, ServicesOf
from backfill.web.api.signing import check_signature, make_upload_url

__all__ = ["EXPIRY_RANGE_S", "check_announced", "check_purpose", "clean_filename", "router"]

FORM_BYTES_MAX = 64 * 1024
# Boundaries, part headers and the other fields of a form that is announced as a whole.
FORM_OVERHEAD_BYTES_MAX = 1024 * 1024
FILENAME_LENGTH_MAX = 255
EXPIRY_RANGE_S = (3600, 2_592_000)
_DEFAULT_FILENAME = "input.jsonl"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

router = APIRouter()


class _Form(NamedTuple):
    """A form that was read to its end; `upload` holds the file's bytes, if there was a file part."""

    fields: dict[str, str]
    upload: Upload | None = None
    part_filename: str = ""


@router.post("/v1/files")
async def create_file(request: Request, services: ServicesOf, owner: Owner) -> Response:
    """With a file part: keep the file. Without: reserve an id, and say where the bytes shall go."""
    return await _create(request, services, owner, file_required=False)


@router.post("/v1/files/upload")
async def create_file_with_content(request: Request, services: ServicesOf, owner: Owner) -> Response:
    """The same, but the file has to be in the request."""
    return await _create(request, services, owner, file_required=True)


@router.put("/v1/uploads/{file_id}")
async def receive_bytes(
    file_id: str, request: Request, services: ServicesOf, expires: str = "", signature: str = ""
) -> Response:
    """Take the bytes of a reserved file; the address is the permission. The file is complete with the answer."""
    check_signature(services.signing_key, file_id, expires, signature)
    check_announced(request, services.config.limits.file_size_bytes)
    await services.metadata.get_file(file_id)
    upload = services.intake.begin(file_id)
    try:
        received_bytes = 0
        async for chunk in request.stream():
            received_bytes += len(chunk)
            await upload.feed(chunk)
        if not received_bytes:
            # A client that tries a PUT again after its body is used up sends an empty one.
            raise InvalidInput("The upload has no bytes.", param="file", code="empty_upload")
        # Read only now: another upload of this file may have ended since.
        draft = await services.metadata.get_file(file_id)
        await upload.seal(draft)
    finally:
        upload.abort()
    return Response(status_code=200)


async def _create(request: Request, services: Services, owner: str, *, file_required: bool) -> Response:
    form = await _read_form(request, services)
    try:
        draft = _make_draft(form, owner, allowed_purposes(request))
        if form.upload is not None:
            return JsonResponse(render_file(request, await form.upload.seal(draft)))
        if file_required:
            raise InvalidInput("The form has no file part; send the file as the part named 'file'.", param="file")
        if not form.fields.get("file_name"):
            message = "Send the file as the part named 'file', or its name as file_name to upload its bytes afterwards."
            raise InvalidInput(message, param="file_name")
        url = make_upload_url(request, services.config.server, services.signing_key, draft.id)
        file = await services.intake.reserve(draft)
        # Clients of several versions take no other status and no body.
        return Response(status_code=302, headers={"location": url, "x-together-file-id": file.id})
    finally:
        if form.upload is not None:
            form.upload.abort()


async def _read_form(request: Request, services: Services) -> _Form:
    """The fields from the query and from the body, whichever form that has; the body's win."""
    fields = dict(request.query_params)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        check_announced(request, services.config.limits.file_size_bytes + FORM_OVERHEAD_BYTES_MAX)
        return await _receive_multipart(request, services.intake, FormReader(content_type), fields)
    if kind == "application/x-www-form-urlencoded":
        fields |= _parse_urlencoded(await read_body(request, FORM_BYTES_MAX))
    elif kind and content_length(request) != 0:
        raise InvalidInput(f"Send multipart/form-data with a part named 'file'; got {kind}.", code="invalid_form")
    return _Form(fields)


async def _receive_multipart(request: Request, intake: Intake, reader: FormReader, fields: dict[str, str]) -> _Form:
    """Bytes of the file go to intake as they come; the caller ends the upload, unless this fails."""
    upload: Upload | None = None
    filename = ""
    try:
        async for chunk in request.stream():
            for event in reader.feed(chunk):
                match event:
                    case FileBytes(data):
                        if upload is not None:
                            await upload.feed(data)
                    case FilePart(filename):
                        upload = intake.begin(new_file_id())
                    case FormField(name, value):
                        fields[name] = value
                        if name == "purpose":
                            # Before 100 MB are received for nothing, if it comes first.
                            check_purpose(fields, allowed_purposes(request))
        reader.finish()
    except BaseException:
        if upload is not None:
            upload.abort()
        raise
    return _Form(fields, upload, filename)


def _make_draft(form: _Form, owner: str, purposes: tuple[str, ...]) -> File:
    """The row of a file whose bytes are not sealed yet; raises InvalidInput for a field that will not do."""
    fields = form.fields
    file_type = fields.get("file_type") or "jsonl"
    if file_type.lower() != "jsonl":
        raise InvalidInput(f"file_type must be jsonl; got {file_type!r}.", param="file_type")
    checksum = fields.get("checksum") or ""
    if checksum and not _SHA256.fullmatch(checksum):
        raise InvalidInput("checksum must be the file's SHA-256 as 64 hexadecimal digits.", param="checksum")
    return File(
        id=form.upload.file_id if form.upload else new_file_id(),
        owner=owner,
        filename=clean_filename(fields.get("file_name") or form.part_filename),
        purpose=check_purpose(fields, purposes),
        status=FileStatus.RESERVED,
        created_at_ms=(created_at_ms := now_ms()),
        expires_at_ms=_find_expiry(fields, created_at_ms),
        sha256=checksum.lower(),
    )


def check_purpose(fields: Mapping[str, str], purposes: tuple[str, ...]) -> str:
    """The purpose among the fields of an upload; raises InvalidInput for one that is not taken here."""
    purpose = fields.get("purpose")
    if purpose not in purposes:
        fault = f"got {purpose!r}" if purpose else "it is missing"
        raise InvalidInput(f"purpose must be one of {', '.join(purposes)}; {fault}.", param="purpose")
    return purpose


def _find_expiry(fields: Mapping[str, str], created_at_ms: int) -> int | None:
    """When the file goes, in OpenAI's form fields `expires_after[anchor]` and `expires_after[seconds]`."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInput(f"expires_after[anchor] must be created_at; got {anchor!r}.", param="expires_after[anchor]")
    least_s, most_s = EXPIRY_RANGE_S
    if not (seconds and seconds.isascii() and seconds.isdigit() and least_s <= int(seconds) <= most_s):
        message = f"expires_after[seconds] must be a whole number from {least_s} to {most_s}; got {seconds!r}."
        raise InvalidInput(message, param="expires_after[seconds]")
    return created_at_ms + int(seconds) * 1000


def check_announced(request: Request, limit_bytes: int) -> None:
    """Refuse what cannot fit before it is sent; what is not announced is counted as it comes."""
    announced = content_length(request)
    if announced is not None and announced > limit_bytes:
        raise TooLarge(f"The file is too large: at most {limit_bytes} bytes can be sent.", param="file")


def _parse_urlencoded(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        message = f"The urlencoded body cannot be read: it must be UTF-8 with at most {FIELDS_MAX} fields."
        raise InvalidInput(message, code="malformed_form") from None
    return dict(pairs)


def clean_filename(name: str) -> str:
    """The last part of a path of either system, without what would break a header or a terminal."""
    base = _CONTROL.sub("", name.replace("\\", "/").rpartition("/")[2]).strip()
    # Cut in front: the end says what kind of file it is.
    return base[-FILENAME_LENGTH_MAX:] if base not in {"", ".", ".."} else _DEFAULT_FILENAME
