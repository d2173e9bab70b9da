"""Servers of a test's own, in its event loop: one that has pictures, and an engine that notes what it is sent."""

import asyncio
import json
import socket
from collections import Counter
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.support.media import png

__all__ = ["EngineWithEyes", "PictureServer"]


class _Server:
    """Listens on a port of its own while its block lasts."""

    def __init__(self) -> None:
        self.url = ""
        self._runner: web.AppRunner | None = None

    def make_app(self) -> web.Application:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self.make_app(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._runner, listener).start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


class PictureServer(_Server):
    """Has a picture at every path that ends in .png, each of its own width."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches: Counter[str] = Counter()
        self.under_way = 0
        self.peak_under_way = 0
        self.statuses: dict[str, int] = {}
        """Path -> what is answered in its stead."""
        self.held: set[str] = set()
        """Paths that are answered once `let_go` is set."""
        self.halved: set[str] = set()
        """Paths of which half is sent, and the rest once `let_go` is set."""
        self.let_go = asyncio.Event()
        self.asked = asyncio.Event()
        """Somebody asked for something that is held, or was sent a half."""

    def make_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{name:.*}", self._answer)
        return app

    def link(self, number: int) -> str:
        """The URL of a picture."""
        return f"{self.url}/{number}.png?signature=secret"

    @staticmethod
    def picture(number: int) -> bytes:
        """The bytes of a picture."""
        return png(number + 1, 2)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.fetches[request.path] += 1
        self.under_way += 1
        self.peak_under_way = max(self.peak_under_way, self.under_way)
        try:
            if request.path in self.held:
                self.asked.set()
                await self.let_go.wait()
            status = self.statuses.get(request.path, 200)
            if status != 200:
                return web.Response(status=status)
            number = int(request.path.removeprefix("/").removesuffix(".png"))
            if request.path in self.halved and not self.let_go.is_set():
                return await self._send_half(request, self.picture(number))
            return web.Response(body=self.picture(number), content_type="image/png")
        finally:
            self.under_way -= 1

    async def _send_half(self, request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": str(len(data)), "content-type": "image/png"})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        self.asked.set()
        await self.let_go.wait()
        await response.write(data[len(data) // 2 :])
        return response


class EngineWithEyes(_Server):
    """Answers each request with how many members of its messages are data: URLs; keeps all bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.statuses: list[int] = []
        """What the next requests are answered with, in this order; 200 when there are no more."""
        self.pause = asyncio.Event()
        """Nothing is answered until it is set."""
        self.pause.set()

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/{endpoint:.*}", self._answer)
        app.router.add_get("/{any:.*}", self._tell)
        return app

    @property
    def texts(self) -> list[str]:
        """The first text of each request."""
        return [_first_text(body) for body in self.bodies]

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def _answer(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.raw.append(raw)
        self.bodies.append(json.loads(raw))
        await self.pause.wait()
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            return web.json_response({"error": {"message": "no", "code": "no"}}, status=status)
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        message = {"role": "assistant", "content": str(raw.count(b"data:image/png;base64,"))}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({"id": "c", "object": "chat.completion", "choices": choices, "usage": usage})


def _first_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")
