"""Requests one message at a time: for clients that vanish, and for bodies that do not fit in memory."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

from starlette.types import ASGIApp, Message

__all__ = ["Stream", "call", "split"]


def make_scope(method: str, path: str, query: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """What a server hands to the application for one request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }


async def call(
    app: ASGIApp, method: str, path: str, messages: AsyncIterator[Message], headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer to a request whose body comes as these messages."""
    path, _, query = path.partition("?")
    scope = make_scope(method, path, query, headers)
    answered: list[Message] = []

    async def receive() -> Message:
        return await anext(messages)

    async def send(message: Message) -> None:
        answered.append(message)

    await app(scope, receive, send)
    return answered[0]["status"], b"".join(message.get("body", b"") for message in answered[1:])


async def split(body: bytes, *, size: int, disconnect: bool = False) -> AsyncIterator[Message]:
    """The body in pieces; `disconnect`: the client goes before the end of the body is said."""
    for start in range(0, len(body), size):
        yield {"type": "http.request", "body": body[start : start + size], "more_body": True}
    while disconnect:
        yield {"type": "http.disconnect"}
    yield {"type": "http.request", "body": b"", "more_body": False}


class Stream:
    """An answer that is read piece by piece while it is being sent; a context manager that ends like a client."""

    def __init__(
        self, app: ASGIApp, path: str, *, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._said = False
        self._body = body
        self._rest = b""
        path, _, query = path.partition("?")
        scope = make_scope(method, path, query, headers)
        self.task = asyncio.ensure_future(app(scope, self._receive, self._messages.put))
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        """Whether the server said that there is no more."""

    async def __aenter__(self) -> Self:
        start = await self._messages.get()
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disconnect()
        await self.task

    async def read_piece(self) -> bytes:
        """The next piece as it was sent; nothing at the end of the answer, and where it is cut."""
        message = await self._next_message()
        self.is_complete = message is not None and not message.get("more_body", False)
        return b"" if message is None else message["body"]

    async def read_all(self) -> bytes:
        """All that is left."""
        pieces = []
        while piece := await self.read_piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def read_line(self) -> bytes:
        """The next line; nothing at the end of the answer, and where it is cut."""
        while b"\n" not in self._rest:
            message = await self._next_message()
            self.is_complete = message is not None and not message.get("more_body", False)
            if message is None or self.is_complete:
                return b""
            self._rest += message["body"]
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def read_lines(self, count: int = sys.maxsize) -> list[bytes]:
        """The next lines, up to the end."""
        lines: list[bytes] = []
        while len(lines) < count and (line := await self.read_line()):
            lines.append(line)
        return lines

    def disconnect(self) -> None:
        """Go away."""
        self._gone.set()

    async def _next_message(self) -> Message | None:
        following = asyncio.ensure_future(self._messages.get())
        await asyncio.wait((following, self.task), return_when=asyncio.FIRST_COMPLETED)
        if not following.done() and self._messages.empty():
            following.cancel()
            return None
        return await following

    async def _receive(self) -> Message:
        if not self._said:
            self._said = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}
