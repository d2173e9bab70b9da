"""Requests that somebody waits for: handed to the engines, and their answers handed back as they come."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import structlog
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backfill.api_key import Caller
from backfill.errors import EngineUnavailable
from backfill.live import LiveAnswer, Traffic
from backfill.web.api.bodies import read_body
from backfill.web.api.errors import answer_error
from backfill.web.api.keys import find_caller
from backfill.wire.together import render_error

if TYPE_CHECKING:
    from backfill.web.api.services import Services

__all__ = ["LiveExchange", "router", "run_watched"]

_ENGINE_STATUSES = {"engine_unavailable": 503, "timeout": 504}
"""By the code of an EngineUnavailable; any other means that the engine broke off."""
_log = structlog.get_logger(__name__)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request, find out who asks, and pass the answer on; whatever is wrong is raised or answered."""
    request = Request(scope, receive)
    services: Services = request.app.state.services
    caller = await find_caller(request, services, scope["path"])
    body = await read_body(request, services.live.body_size_max_bytes)
    await run_watched(LiveExchange(services.live, caller, scope["path"], body), scope, receive, send)


async def run_watched(exchange: "LiveExchange", scope: Scope, receive: Receive, send: Send) -> None:
    """Send the answer, unless the client goes away before: then all work on it ends."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    watching = asyncio.create_task(_wait_for_disconnect(receive))
    watching.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
    try:
        await exchange.run(scope, receive, send)
    except asyncio.CancelledError:
        if not watching.done() or watching.cancelled():
            raise
        task.uncancel()  # nobody listens any more: there is nothing to say
    finally:
        watching.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class LiveExchange:
    """One request and its answer."""

    def __init__(self, live: Traffic, caller: Caller, endpoint: str, body: bytes) -> None:
        self._live = live
        self._caller = caller
        self._endpoint = endpoint
        self._body = body

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; raises BackfillError if the request is none, and nothing is sent then."""
        wanted = self._live.check(self._endpoint, self._body)
        admission = await self._live.admit(self._caller, wanted)
        if admission.refusal:
            refused = answer_error(429, admission.refusal, code="rate_limit_exceeded", headers=admission.headers)
            await refused(scope, receive, send)
            return
        try:
            answer = await self._live.open(self._caller, self._endpoint, wanted, self._body)
        except EngineUnavailable as error:
            await self._tell_failure(error, admission.headers)(scope, receive, send)
            return
        told = ((name.encode(), value.encode()) for name, value in admission.headers.items())
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, *told]})
            await self._pass_on(answer, scope, send, is_stream=wanted.is_stream)
        finally:
            answer.close()

    def _tell_failure(self, error: EngineUnavailable, headers: Mapping[str, str]) -> Response:
        status = _ENGINE_STATUSES.get(error.code, 502)
        return answer_error(status, error.message, code=error.code, headers=headers)

    async def _pass_on(self, answer: LiveAnswer, scope: Scope, send: Send, *, is_stream: bool) -> None:
        try:
            while part := await answer.read():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except EngineUnavailable as error:
            where = {"path": scope["path"], "request_id": scope["backfill.request_id"]}
            _log.warning("live answer broke off", reason=error.message, **where)
            if not is_stream:
                return  # without its end: the server cuts the connection, and the client sees a short body
            event = msgspec.json.encode(render_error(error.message, "server_error", code=error.code))
            await send({"type": "http.response.body", "body": b"data: %s\n\n" % event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _BareRoute(APIRoute):
    """Calls its handler with what the server gave, without what costs more than all that the handler does."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or say which methods are allowed."""
        if scope["method"] in (self.methods or ()):
            await _answer(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


router = APIRouter(route_class=_BareRoute)


@router.post("/v1/chat/completions")
async def create_chat_completion() -> None:
    """A chat completion, whole or as a stream of events, as the engine gives it."""


@router.post("/v1/completions")
async def create_completion() -> None:
    """A text completion, whole or as a stream of events, as the engine gives it."""


@router.post("/v1/embeddings")
async def create_embedding() -> None:
    """Embeddings, as the engine gives them."""


@router.post("/v1/responses")
async def create_response() -> None:
    """A response, whole or as a stream of events, as the engine gives it."""
