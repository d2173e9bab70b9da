"""Bodies that come compressed: inflated as they are read, so that every limit counts what they really hold."""

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backfill.inflation import Inflater, Packing
from backfill.web.api.errors import answer_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RequestDecoding"]

_CODINGS = {"gzip": Packing.GZIP, "x-gzip": Packing.GZIP, "zstd": Packing.ZSTD}


class RequestDecoding:
    """Takes `Content-Encoding: gzip` or `zstd` off a request; any other coding is a 415."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as if it had been sent as it is."""
        coding = _find_coding(scope) if scope["type"] == "http" else ""
        if coding in _CODINGS:
            # The length is that of the compressed bytes, which nobody behind this sees.
            headers = [each for each in scope["headers"] if each[0] not in {b"content-encoding", b"content-length"}]
            await self._app({**scope, "headers": headers}, _InflatedBody(receive, _CODINGS[coding]).receive, send)
        elif coding in {"", "identity"}:
            await self._app(scope, receive, send)
        else:
            message = (
                f"A body in the Content-Encoding {coding[:64]!r} is not taken; send it as it is, as gzip or as zstd."
            )
            answer = answer_error(415, message, code="unsupported_encoding", headers={"accept-encoding": "gzip, zstd"})
            await answer(scope, receive, send)


class _InflatedBody:
    """The body as it was before it was compressed, in pieces of bounded size."""

    def __init__(self, receive: Receive, packing: Packing) -> None:
        self._receive = receive
        self._inflater = Inflater(packing)
        self._pieces: Iterator[bytes] = iter(())
        self._has_more = True
        self._has_ended = False

    async def receive(self) -> Message:
        """The next message; raises InvalidInput where the bytes are not compressed so, or end before that does."""
        while True:
            piece = next(self._pieces, None)
            if piece is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._has_ended:
                return await self._receive()
            if not self._has_more:
                self._inflater.finish()
                self._has_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._has_more = message.get("more_body", False)
            self._pieces = self._inflater.feed(message.get("body", b""))


def _find_coding(scope: Scope) -> str:
    codings = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    return ", ".join(codings).strip().lower()
