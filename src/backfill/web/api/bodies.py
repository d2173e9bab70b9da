"""Bodies of requests and answers that are small enough to hold."""

import re
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from backfill.errors import TooLarge

__all__ = ["JsonResponse", "content_length", "read_body"]

# More digits than any length has are no length; Python refuses to read thousands of them.
_LENGTH = re.compile(r"[0-9]{1,18}")


class JsonResponse(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of `content`."""
        return msgspec.json.encode(content)


def content_length(request: Request) -> int | None:
    """How many bytes the client announced; None for a chunked body."""
    announced = request.headers.get("content-length", "")
    return int(announced) if _LENGTH.fullmatch(announced) else None


async def read_body(request: Request, limit_bytes: int, hint: str = "") -> bytes:
    """The whole body; raises TooLarge as soon as it passes the limit, with a hint of what else may be done."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            message = f"The body is larger than the {limit_bytes} bytes that this request may have.{hint}"
            raise TooLarge(message, code="request_too_large")
    return bytes(body)
