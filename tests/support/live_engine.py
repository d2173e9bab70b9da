"""An engine of OpenAI's shape in this process whose answers a test writes, event by event."""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LiveEngine", "Received"]


class Received:
    """One request: what came, and a hand on what goes back."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.cancelled = asyncio.Event()
        """Set when the client went away before the answer was complete."""
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, piece: bytes) -> None:
        """The next piece of the answer."""
        self._pieces.put_nowait(piece)

    def end(self) -> None:
        """No more comes."""
        self._pieces.put_nowait(None)

    async def next_piece(self) -> bytes | None:
        """What to send next; None at the end."""
        return await self._pieces.get()


class LiveEngine:
    """Answers with `status`, `headers` and what each request's `send` says; `breaks` cuts it at its end."""

    def __init__(self, *models: str) -> None:
        self.status = 200
        self.headers: dict[str, str] = {"Content-Type": "text/event-stream"}
        self.breaks = False
        self.holds_head = False
        """The status goes out with the first piece, and not before."""
        self.url = ""
        self.on_request: Callable[[Received], None] = lambda received: None
        """Called at once with each request: what it sends needs no waiting."""
        self.received: asyncio.Queue[Received] = asyncio.Queue()
        self.owned_by = "nobody"
        self.metrics = ""
        self._models = models
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Answer nothing any more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _list_models(self, _: web.Request) -> web.Response:
        found: list[dict[str, Any]] = [
            {"id": model, "object": "model", "owned_by": self.owned_by} for model in self._models
        ]
        return web.json_response({"object": "list", "data": found})

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        received = Received(request.path, dict(request.headers), await request.read())
        self.received.put_nowait(received)
        self.on_request(received)
        response = web.StreamResponse(status=self.status, headers=self.headers)
        try:
            held = await received.next_piece() if self.holds_head else b""
            await response.prepare(request)
            if held:
                await response.write(held)
            while (piece := await received.next_piece()) is not None:
                await response.write(piece)
        except (asyncio.CancelledError, ConnectionError):
            received.cancelled.set()
            raise
        if self.breaks and request.transport is not None:
            request.transport.abort()
        return response
