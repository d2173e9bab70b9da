"""The ways in: POST /v1/files with the file in it, or first an address and then a PUT of the bytes."""

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from backfill.api_key import Caller
from backfill.batch import File, FileStatus
from backfill.errors import InvalidInput, TooLarge
from backfill.intake import FileLimits, Intake, Upload, make_size_error, new_file_id
from backfill.purposes import OPAQUE_PURPOSES
from backfill.turns import now_ms
from backfill.web.api.bodies import JsonResponse, content_length, read_body
from backfill.web.api.dialects import allowed_purposes, render_file
from backfill.web.api.file_limits import find_limits, read_limits, write_limits
from backfill.web.api.keys import CallerOf
from backfill.web.api.multipart import FIELDS_MAX, FileBytes, FilePart, FormField, FormReader
from backfill.web.api.services import Services, ServicesOf
from backfill.web.api.signing import check_signature, file_subject, make_upload_url

__all__ = ["EXPIRY_RANGE_S", "check_announced", "check_purpose", "clean_filename", "router"]

FORM_BYTES_MAX = 64 * 1024
# Boundaries, part headers and the other fields of a form that is announced as a whole.
FORM_OVERHEAD_BYTES_MAX = 1024 * 1024
FILENAME_LENGTH_MAX = 255
EXPIRY_RANGE_S = (3600, 2_592_000)
# Of a value that will not do; a client that sends more knows the rest.
_SHOWN_LENGTH_MAX = 64
_DEFAULT_FILENAME = "input.jsonl"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SECONDS = re.compile(r"[0-9]{1,10}")
# Line ends and what a terminal obeys; marks that turn the reading direction, which make a name look like another;
# halves of surrogate pairs, which no file system and no database takes.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

router = APIRouter()


class _Form(NamedTuple):
    """A form that was read to its end; `upload` holds the file's bytes, if there was a file part."""

    fields: dict[str, str]
    upload: Upload | None = None
    part_filename: str = ""


class _Receiver(NamedTuple):
    """What a form with a file is read with."""

    intake: Intake
    limits: FileLimits
    reader: FormReader


class _Address(BaseModel):
    """What is signed in an address that takes a file's bytes."""

    expires: str = ""
    signature: str = ""
    limits: str = ""


@router.post("/v1/files")
async def create_file(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """With a file part: keep the file. Without: reserve an id, and say where the bytes shall go."""
    return await _create(request, services, caller, file_required=False)


@router.post("/v1/files/upload")
async def create_file_with_content(request: Request, services: ServicesOf, caller: CallerOf) -> Response:
    """The same, but the file has to be in the request."""
    return await _create(request, services, caller, file_required=True)


@router.put("/v1/uploads/{file_id}")
async def receive_bytes(
    file_id: str, request: Request, services: ServicesOf, address: Annotated[_Address, Query()]
) -> Response:
    """Take the bytes of a reserved file; the address is the permission. The file is complete with the answer."""
    subject = file_subject(file_id, address.limits)
    check_signature(services.signing_key, subject, address.expires, address.signature)
    limits = read_limits(services.intake, address.limits)
    purpose = (await services.metadata.get_file(file_id)).purpose
    check_announced(request, limits.size_of(purpose), make_size_error(limits, purpose))
    async with services.intake.receiving(file_id):
        await _receive_body(request, services, file_id, services.intake.begin(file_id, limits, purpose))
    return Response(status_code=200)


async def _receive_body(request: Request, services: Services, file_id: str, upload: Upload) -> None:
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


async def _create(request: Request, services: Services, caller: Caller, *, file_required: bool) -> Response:
    limits = find_limits(services.intake, caller)
    form = await _read_form(request, services.intake, limits)
    try:
        draft = _make_draft(form, caller.owner, allowed_purposes(request))
        if form.upload is not None:
            return JsonResponse(render_file(request, await form.upload.seal(draft)))
        if file_required:
            raise InvalidInput("The form has no file part; send the file as the part named 'file'.", param="file")
        if not form.fields.get("file_name"):
            message = "Send the file as the part named 'file', or its name as file_name to upload its bytes afterwards."
            raise InvalidInput(message, param="file_name")
        url = make_upload_url(request, services.config.server, services.signing_key, draft.id, write_limits(limits))
        file = await services.intake.reserve(draft)
        # Clients of several versions take no other status and no body.
        return Response(status_code=302, headers={"location": url, "x-together-file-id": file.id})
    finally:
        if form.upload is not None:
            form.upload.abort()


async def _read_form(request: Request, intake: Intake, limits: FileLimits) -> _Form:
    """The fields from the query and from the body, whichever form that has; the body's win."""
    fields = dict(request.query_params)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        _check_form_size(request, limits, fields.get("purpose"))
        receiver = _Receiver(intake, limits, FormReader(content_type))
        return await _receive_multipart(request, receiver, fields)
    if kind == "application/x-www-form-urlencoded":
        fields |= _parse_urlencoded(await read_body(request, FORM_BYTES_MAX))
    elif kind and content_length(request) != 0:
        raise InvalidInput(f"Send multipart/form-data with a part named 'file'; got {kind}.", code="invalid_form")
    return _Form(fields)


async def _receive_multipart(request: Request, receiver: _Receiver, fields: dict[str, str]) -> _Form:
    """Bytes of the file go to intake as they come; the caller ends the upload, unless this fails."""
    upload: Upload | None = None
    filename = ""
    try:
        async for chunk in request.stream():
            for event in receiver.reader.feed(chunk):
                match event:
                    case FileBytes(data):
                        if upload is not None:
                            await upload.feed(data)
                    case FilePart(filename):
                        upload = receiver.intake.begin(new_file_id(), receiver.limits, fields.get("purpose"))
                    case FormField(name, value):
                        fields[name] = value
                        if name == "purpose":
                            # Before 100 MB are received for nothing, if it comes first.
                            purpose = check_purpose(fields, allowed_purposes(request))
                            _check_form_size(request, receiver.limits, purpose)
        receiver.reader.finish()
    except BaseException:
        if upload is not None:
            upload.abort()
        raise
    return _Form(fields, upload, filename)


def _check_form_size(request: Request, limits: FileLimits, purpose: str | None) -> None:
    error = make_size_error(limits, purpose)
    check_announced(request, limits.size_of(purpose) + FORM_OVERHEAD_BYTES_MAX, error)


def _make_draft(form: _Form, owner: str, purposes: tuple[str, ...]) -> File:
    """The row of a file whose bytes are not sealed yet; raises InvalidInput for a field that will not do."""
    fields = form.fields
    purpose = check_purpose(fields, purposes)
    file_type = fields.get("file_type") or "jsonl"
    # Of pictures, clips and tables the bytes themselves say what they are.
    if file_type.lower() != "jsonl" and purpose not in OPAQUE_PURPOSES:
        raise InvalidInput(f"file_type must be jsonl; {_describe_fault(file_type)}.", param="file_type")
    checksum = fields.get("checksum") or ""
    if checksum and not _SHA256.fullmatch(checksum):
        raise InvalidInput("checksum must be the file's SHA-256 as 64 hexadecimal digits.", param="checksum")
    return File(
        id=form.upload.file_id if form.upload else new_file_id(),
        owner=owner,
        filename=clean_filename(fields.get("file_name") or form.part_filename),
        purpose=purpose,
        status=FileStatus.RESERVED,
        created_at_ms=(created_at_ms := now_ms()),
        expires_at_ms=_find_expiry(fields, created_at_ms),
        sha256=checksum.lower(),
    )


def check_purpose(fields: Mapping[str, str], purposes: tuple[str, ...]) -> str:
    """The purpose among the fields of an upload; raises InvalidInput for one that is not taken here."""
    purpose = fields.get("purpose")
    if purpose not in purposes:
        message = f"purpose must be one of {', '.join(purposes)}; {_describe_fault(purpose)}."
        raise InvalidInput(message, param="purpose")
    return purpose


def _describe_fault(value: str | None) -> str:
    return f"got {value[:_SHOWN_LENGTH_MAX]!r}" if value else "it is missing"


def _find_expiry(fields: Mapping[str, str], created_at_ms: int) -> int | None:
    """When the file goes, in OpenAI's form fields `expires_after[anchor]` and `expires_after[seconds]`."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        message = f"expires_after[anchor] must be created_at; {_describe_fault(anchor)}."
        raise InvalidInput(message, param="expires_after[anchor]")
    least_s, most_s = EXPIRY_RANGE_S
    if not (seconds and _SECONDS.fullmatch(seconds) and least_s <= int(seconds) <= most_s):
        message = (
            f"expires_after[seconds] must be a whole number from {least_s} to {most_s}; {_describe_fault(seconds)}."
        )
        raise InvalidInput(message, param="expires_after[seconds]")
    return created_at_ms + int(seconds) * 1000


def check_announced(request: Request, limit_bytes: int, error: TooLarge) -> None:
    """Raises `error` for what cannot fit before it is sent; what is not announced is counted as it comes."""
    announced = content_length(request)
    if announced is not None and announced > limit_bytes:
        raise error


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
