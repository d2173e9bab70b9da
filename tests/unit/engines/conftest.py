"""A server that says exactly the bytes a test gives it."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from yarl import URL

HANG = b"<hang>"
"""Instead of an answer: none, and the connection stays open."""


class ScriptedServer:
    """Answers each request with the next of `answers`, byte for byte; an empty one closes the connection."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[bytes, bytes]] = []
        self.arrived = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.url = URL()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = URL.build(scheme="http", host="127.0.0.1", port=self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.answers.append("\r\n".join([*lines, "", ""]).encode() + body)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.requests.append((head, await reader.readexactly(length)))
        self.arrived.set()
        answer = self.answers.pop(0)
        if answer == HANG:
            await reader.readexactly(1)
        writer.write(answer)
        await writer.drain()
        return bool(answer) and b"Connection: close" not in answer


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()
