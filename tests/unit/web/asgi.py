"""Requests one message at a time: for clients that vanish, and for bodies that do not fit in memory."""

from collections.abc import AsyncIterator
from typing import Any

from starlette.types import ASGIApp, Message

__all__ = ["call", "split"]


async def call(
    app: ASGIApp, method: str, path: str, messages: AsyncIterator[Message], headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer to a request whose body comes as these messages."""
    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
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
        "server": ("backfill.test", 80),
        "client": ("127.0.0.1", 1),
    }
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
