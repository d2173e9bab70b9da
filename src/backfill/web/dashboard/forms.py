"""Forms that pages send: read whole, small, and only if they are this session's own."""

from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request

from backfill.errors import InvalidInput
from backfill.web.api.bodies import read_body
from backfill.web.api.multipart import FileBytes, FilePart, FormField, FormReader

__all__ = ["FORM_BYTES_MAX", "PROMPTS_BYTES_MAX", "Form", "SentFile", "read_form", "read_sent_file"]

FORM_BYTES_MAX = 64 * 1024
PROMPTS_BYTES_MAX = 1 << 20
"""Of a form in which somebody writes prompts."""
_FIELDS_MAX = 200


class Form(NamedTuple):
    """The fields of a form; of one that comes twice the last value, and all of them in `lists`."""

    values: dict[str, str]
    lists: dict[str, list[str]]


class SentFile(NamedTuple):
    """A file that comes in a form, with the fields before it; its bytes are still on their way."""

    values: dict[str, str]
    filename: str
    pieces: AsyncIterator[bytes]


async def read_form(request: Request, limit_bytes: int = FORM_BYTES_MAX) -> Form:
    """A form without a file; raises InvalidInput, TooLarge."""
    body = await read_body(request, limit_bytes)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, strict_parsing=bool(body))
    except ValueError:
        raise InvalidInput("The form cannot be read.", code="invalid_form") from None
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return Form({name: values[-1] for name, values in lists.items()}, lists)


async def read_sent_file(request: Request) -> SentFile:
    """A form whose last part is a file; raises InvalidInput if there is none."""
    reader = FormReader(request.headers.get("content-type", ""))
    events = _read_events(request, reader)
    values: dict[str, str] = {}
    async for event in events:
        match event:
            case FormField(name, value):
                values[name] = value
            case FilePart(filename):
                return SentFile(values, filename, _take_bytes(events))
            case _:
                pass
    raise InvalidInput("Choose a file first.", param="file")


async def _read_events(request: Request, reader: FormReader) -> AsyncIterator[FormField | FilePart | FileBytes]:
    async for chunk in request.stream():
        for event in reader.feed(chunk):
            yield event
    reader.finish()


async def _take_bytes(events: AsyncIterator[FormField | FilePart | FileBytes]) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, FileBytes):
            yield event.data
