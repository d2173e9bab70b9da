"""An engine's answer on its way to somebody who waits for it: handed on piece by piece, as it comes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import aiohttp
import msgspec

from backfill.engines.reply import Lost, Reply
from backfill.errors import EngineUnavailable

__all__ = [
    "FORWARD_TIMEOUT",
    "NOT_SENT",
    "ForwardedAnswer",
    "RenamingAnswer",
    "StreamedAnswer",
    "WholeAnswer",
    "answer_reply",
    "keep_headers",
]

NOT_SENT: Final = "engine_unavailable"
"""The code of an EngineUnavailable that says: the request did not reach the engine, another one may have it."""
FORWARD_TIMEOUT: Final = "timeout"

Headers = tuple[tuple[bytes, bytes], ...]
_JSON: Final[Headers] = ((b"content-type", b"application/json"),)
# RFC 9110, 7.6.1, and what only concerns the engine's own connection, date and clients.
_DROPPED: Final = frozenset(
    {
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"www-authenticate",
        b"x-request-id",
    }
)

# Which pages may ask is for the server to say, not for its engines.
_FOR_PAGES: Final = b"access-control-"


class ForwardedAnswer(Protocol):
    """Status and headers are here; the body is read as it comes."""

    @property
    def status(self) -> int:
        """As the engine gave it."""

    @property
    def headers(self) -> Headers:
        """Those that concern the client, names in lower case."""

    @property
    def begins_at_first_token(self) -> bool:
        """The head came with the first token, and not before."""

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end.

        Raises:
            EngineUnavailable: the connection was lost before that.

        """

    def close(self) -> None:
        """Give up what has not been read: the engine computes no further. Safe to call twice, and at the end."""


class StreamedAnswer:
    """The answer on an open connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = keep_headers(response.raw_headers)
        self.on_close: Callable[[], None] | None = None
        """Called once, when it is over."""
        self.begins_at_first_token = False
        """The head came with the first token, and not before."""
        self._response = response

    async def read(self) -> bytes:
        """What has come since, or the next that comes."""
        try:
            return await self._response.content.readany()
        except TimeoutError:
            raise EngineUnavailable("The answer took too long.", code=FORWARD_TIMEOUT) from None
        except (aiohttp.ClientError, OSError, ValueError):
            message = "The engine closed the connection before the answer was complete."
            raise EngineUnavailable(message, code="connection_lost") from None

    def close(self) -> None:
        """Close the connection unless the answer is complete: then it is kept for the next request."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()


class WholeAnswer:
    """An answer that is complete."""

    def __init__(self, status: int, parts: Iterable[bytes], headers: Headers = _JSON) -> None:
        self.status = status
        self.headers = headers
        self.begins_at_first_token = False
        self._parts = iter(tuple(parts))

    async def read(self) -> bytes:
        """The next part."""
        return next(self._parts, b"")

    def close(self) -> None:
        """Nothing is left to do."""


class RenamingAnswer:
    """An answer in each piece of which a member has another value, such as the model's name in every event."""

    def __init__(self, answer: ForwardedAnswer, old: bytes, new: bytes) -> None:
        self.status = answer.status
        # The length may be another.
        self.headers = tuple(header for header in answer.headers if header[0] != b"content-length")
        self.begins_at_first_token = answer.begins_at_first_token
        self._answer = answer
        self._old = old
        self._new = new

    async def read(self) -> bytes:
        """The next piece."""
        return (await self._answer.read()).replace(self._old, self._new)

    def close(self) -> None:
        """Close the answer itself."""
        self._answer.close()


def keep_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Those of an engine's headers that are for the client too."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in lowered if name == b"connection" for word in value.split(b",")}
    return tuple(
        header
        for header in lowered
        if header[0] not in _DROPPED and header[0] not in named and not header[0].startswith(_FOR_PAGES)
    )


def answer_reply(reply: Reply) -> WholeAnswer:
    """The answer to a request that was sent as a line of a batch would be.

    Raises:
        EngineUnavailable: it was lost.

    """
    if not isinstance(reply, Lost):
        return WholeAnswer(reply.status, (reply.body,))
    if reply.status is None or reply.never_sent:
        raise EngineUnavailable(reply.message, code=NOT_SENT if reply.never_sent else reply.reason.value)
    error = {"message": reply.message, "type": "server_error", "param": None, "code": reply.reason.value}
    return WholeAnswer(reply.status if reply.status >= 400 else 502, (msgspec.json.encode({"error": error}),))
