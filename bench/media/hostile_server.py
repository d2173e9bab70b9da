"""A server that answers as it is told, also with what no server should: raw bytes over a socket, in this event loop."""

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Asked", "HostileServer", "Reply", "respond", "wave"]


class Asked(NamedTuple):
    """One request that came."""

    method: str
    target: str
    headers: dict[str, str]


Reply = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def wave(seconds: float = 1.0, rate: int = 8000) -> bytes:
    """A silent clip."""
    samples = bytes(2 * round(seconds * rate))
    form = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", len(samples))
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(samples), b"WAVE") + form + samples


def respond(body: bytes = b"", status: int = 200, **headers: str) -> Reply:
    """A whole answer; a header's name with `_` for `-`, and `content_length` is right unless it is given."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    lines = {"Content-Length": str(len(body)), "Connection": "close"} | named
    head = f"HTTP/1.1 {status} Said\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"

    async def reply(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)
        await writer.drain()

    return reply


class HostileServer:
    """A context manager; `replies` says what each path answers, without a query."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._context = context
        self.port = port
        self.asked: list[Asked] = []
        self.connections = 0
        self.replies: dict[str, Reply] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str, host: str | None = None) -> str:
        """A link to it."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{host or self._host}:{self.port}{path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        pairs = (line.partition(":") for line in lines[1:] if line)
        asked = Asked(method, target, {name.lower(): value.strip() for name, _, value in pairs})
        self.asked.append(asked)
        path = target.partition("?")[0]
        await self.replies.get(path, respond(b"nothing here", 404))(asked, writer)
