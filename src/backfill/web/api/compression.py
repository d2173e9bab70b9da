"""Bodies that come compressed: inflated as they are read, so that every limit counts what they really hold."""

import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backfill.errors import InvalidInput
from backfill.web.api.errors import answer_error

__all__ = ["RequestDecoding"]

_PIECE_BYTES = 1 << 18
_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_WINDOW = zlib.MAX_WBITS | 16


class RequestDecoding:
    """Takes `Content-Encoding: gzip` off a request; any other coding is a 415."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as if it had been sent as it is."""
        coding = _find_coding(scope) if scope["type"] == "http" else ""
        if coding in _GZIP:
            # The length is that of the compressed bytes, which nobody behind this sees.
            headers = [each for each in scope["headers"] if each[0] not in {b"content-encoding", b"content-length"}]
            await self._app({**scope, "headers": headers}, _GzipBody(receive).receive, send)
        elif coding in {"", "identity"}:
            await self._app(scope, receive, send)
        else:
            message = f"A body in the Content-Encoding {coding[:64]!r} is not taken; send it as it is, or as gzip."
            answer = answer_error(415, message, code="unsupported_encoding", headers={"accept-encoding": "gzip"})
            await answer(scope, receive, send)


class _GzipBody:
    """The body as it was before it was compressed, in pieces of bounded size."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)
        self._compressed = b""
        self._has_begun = False
        self._is_held_back = False
        """The last piece was full: there may be more of what was read already."""
        self._has_more = True
        self._has_ended = False

    async def receive(self) -> Message:
        """The next message; raises InvalidInput where the bytes are no gzip, or end before it does."""
        while self._has_more and not self._compressed and not self._is_held_back:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._compressed = message.get("body", b"")
            self._has_more = message.get("more_body", False)
        if self._has_ended:
            return await self._receive()
        piece = self._inflate()
        self._has_ended = not (self._has_more or self._compressed or self._is_held_back)
        if self._has_ended and self._has_begun and not self._decoder.eof:
            raise InvalidInput("The gzip body ends too early.", code="malformed_encoding")
        return {"type": "http.request", "body": piece, "more_body": not self._has_ended}

    def _inflate(self) -> bytes:
        if not self._compressed and not self._is_held_back:
            return b""
        if self._decoder.eof:
            # Files in gzip may be put one behind the other.
            self._decoder = zlib.decompressobj(_GZIP_WINDOW)
        self._has_begun = True
        try:
            piece = self._decoder.decompress(self._compressed, _PIECE_BYTES)
        except zlib.error:
            message = "The body is not valid gzip, although its Content-Encoding says so."
            raise InvalidInput(message, code="malformed_encoding") from None
        self._compressed = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        self._is_held_back = len(piece) == _PIECE_BYTES and not self._decoder.eof
        return piece


def _find_coding(scope: Scope) -> str:
    codings = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    return ", ".join(codings).strip().lower()
