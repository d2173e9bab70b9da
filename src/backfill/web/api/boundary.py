"""The outermost layer: every answer has a request id, and no exception gets past."""

import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backfill.web.api.errors import answer_unexpected

__all__ = ["Boundary"]


class Boundary:
    """Adds `x-request-id`, and turns what nobody foresaw into a 500 without a trace of its cause."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer it here if nobody else could."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["backfill.request_id"] = f"req_{uuid.uuid4().hex}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            answer = answer_unexpected(scope, error)
            if started:
                # Too late for another status: the server cuts the connection, and the client sees a short body.
                raise
            await answer(scope, receive, send_with_id)
