"""HEAD wherever there is GET: the same status and headers, without the body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HeadRequests", "is_head"]


class HeadRequests:
    """Has the handler of GET answer a HEAD, and sends nothing of its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as a GET."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET", "backfill.head": True}, receive, send_headers)


def is_head(scope: Scope) -> bool:
    """Whether only the headers are asked for, so that no body need be made."""
    return bool(scope.get("backfill.head"))
