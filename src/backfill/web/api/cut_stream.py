"""An answer that takes as long as it takes: cut when nobody listens or the server stops, and then without its end."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backfill.web.api.head import is_head

__all__ = ["CutStream"]


class CutStream(Response):
    """Sends pieces until there are no more. One that is cut has no end, so that no client takes it for the whole."""

    def __init__(self, stopping: asyncio.Event, headers: Mapping[str, str] | None = None) -> None:
        """`stopping` is set when the server ends."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._stopping = stopping

    def make_pieces(self) -> AsyncIterator[bytes]:
        """What is sent."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give back what the answer owns; called once, however it ended."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; ends at once, whatever it waits for, when nobody listens or the server stops."""
        sending = asyncio.create_task(self._send(send, only_headers=is_head(scope)))
        ending = (asyncio.create_task(_wait_for_disconnect(receive)), asyncio.create_task(self._stopping.wait()))
        try:
            await asyncio.wait((sending, *ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *ending):
                task.cancel()
            await asyncio.wait((sending, *ending))
            await self.close()
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send, *, only_headers: bool) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if not only_headers:
            async for piece in self.make_pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
