"""What stands in front of servers: it passes connections on to one after the other, or answers that there is too much.

Bytes are passed on as they are, so that what is signed stays so.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

__all__ = ["Gateway"]

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
_PIECE_BYTES = 1 << 16
_Result = TypeVar("_Result")


class Gateway:
    """A context manager, on a port of its own. A target that takes no connection is passed over."""

    def __init__(self, find_targets: Callable[[], Sequence[str]]) -> None:
        """`find_targets` gives the URLs of the servers that run now."""
        self._find_targets = find_targets
        self._next = 0
        self._is_slow = False
        self._is_slow_to_writers_only = False
        self._is_silent: bool | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.refused = 0
        """How many requests were answered that there is too much."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def slow_down(self, *, is_slow: bool, writers_only: bool = False) -> None:
        """From now on answer every request 503 SlowDown, as S3 does, or each PUT alone; or pass all on again."""

        async def change() -> None:
            self._is_slow, self._is_slow_to_writers_only = is_slow, writers_only
            if is_slow:
                # What is open would be passed on past this.
                for writer in list(self._open):
                    writer.close()

        self._run(change())

    def go_away(self, *, is_silent: bool | None) -> None:
        """From now on pass nothing on: take what comes and never answer, or end connections at once; None: be back."""

        async def change() -> None:
            self._is_silent = is_silent
            for writer in list(self._open):
                # Those that were never answered too: whoever was cut off for a while finds out at some time.
                if is_silent is not True:
                    writer.transport.abort()

        self._run(change())

    def cut(self) -> None:
        """End all connections at once, as where a server fails over to another one; new ones are passed on."""

        async def close() -> None:
            for writer in list(self._open):
                writer.transport.abort()

        self._run(close())

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _stop(self) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            # A task of the server's that is cancelled is told of as an error.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if self._is_silent is not None:
                    while self._is_silent and await reader.read(_PIECE_BYTES):
                        pass
                elif self._is_slow:
                    await self._refuse(reader, writer)
                else:
                    await self._pass_on(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await _read_request(reader)
        if self._is_slow_to_writers_only and not head.startswith(b"PUT"):
            # One request, so that the next one on this connection is looked at too.
            line, _, headers = head.partition(b"\r\n")
            await self._pass_on(reader, writer, b"\r\n".join((line, b"connection: close", headers)) + body)
            return
        self.refused += 1
        writer.write(b"HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-type: application/xml\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(_SLOW_DOWN))
        if not head.startswith(b"HEAD"):
            writer.write(_SLOW_DOWN)
        await writer.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes = b"") -> None:
        for _ in range(len(self._find_targets()) + 1):
            targets = self._find_targets()
            self._next += 1
            target = urlsplit(targets[self._next % len(targets)])
            with suppress(ConnectionRefusedError):
                far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
                break
        else:
            return
        self._open.add(far_writer)
        far_writer.write(begun)
        try:
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        finally:
            self._open.discard(far_writer)
            far_writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one of the two ends it; the other side is then told."""
        with suppress(OSError):
            while data := await reader.read(_PIECE_BYTES):
                if self._is_silent:
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Its head, and its body if it says how long that is."""
    head, body = await reader.readuntil(b"\r\n\r\n"), b""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            body = await reader.readexactly(int(line.partition(b":")[2]))
    return head, body
