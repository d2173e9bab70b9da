"""Bodies of requests and answers that are small enough to hold."""

from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from backfill.errors import TooLarge

__all__ = ["JsonResponse", "content_length", "read_body"]


class JsonResponse(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of `content`."""
        return msgspec.json.encode(content)


def content_length(request: Request) -> int | None:
    """How many bytes the client announced; None for a chunked body."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isascii() and announced.isdigit() else None


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body; raises TooLarge as soon as it passes the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise TooLarge(f"The body of this request may have {limit_bytes} bytes.", code="request_too_large")
    return bytes(body)
