"""Live requests that a process without engines passes on to this one, which has some. Not for clients.

Nobody's API key opens this: who asks shows what only processes of the installation can know. Keys and limits were
looked at where the request came in.
"""

import hmac
from collections.abc import Mapping
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backfill.api_key import Caller, KeyLimits
from backfill.errors import BackfillError, EngineUnavailable, InvalidInput, NotFound, Unauthorized
from backfill.live import FAILURE_HEADER, OWNER_HEADER, RELAY_PATH
from backfill.web.api.bodies import read_body
from backfill.web.api.errors import answer_error, find_status
from backfill.web.api.keys import read_bearer
from backfill.web.api.live import LiveExchange, router, run_watched
from backfill.web.api.services import Services

__all__ = ["list_relay_routes"]

_NO_LIMITS = KeyLimits(requests_per_minute=0, tokens_per_minute=0)


def list_relay_routes() -> list[Route]:
    """One for each endpoint of live requests."""
    paths = [route.path for route in router.routes if isinstance(route, Route)]
    return [Route(f"{RELAY_PATH}{path}", _Relay(path), methods=["POST"]) for path in paths]


class _Relay:
    """An ASGI application for one endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what an engine says, or with a failure of ours that is marked as one."""
        request = Request(scope, receive)
        services: Services = request.app.state.services
        _check_key(request, services)
        owner = unquote(request.headers.get(OWNER_HEADER, ""))
        body = await read_body(request, services.live.body_size_max_bytes)
        exchange = _MarkedExchange(services.live, Caller(owner, limits=_NO_LIMITS), self._endpoint, body)
        await run_watched(exchange, scope, receive, send)


class _MarkedExchange(LiveExchange):
    """As any other, but that what fails here can be told from an engine's own errors."""

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await super().run(scope, receive, send)
        except NotFound as error:
            # The engines were changed since this process told of them: another one may have the model.
            await self._tell_failure(EngineUnavailable(error.message), {})(scope, receive, send)
        except InvalidInput as error:
            marked = answer_error(
                find_status(error), error.message, code=error.code, param=error.param, headers=_mark(error)
            )
            await marked(scope, receive, send)

    def _tell_failure(self, error: EngineUnavailable, headers: Mapping[str, str]) -> Response:
        return super()._tell_failure(error, {**headers, **_mark(error)})


def _mark(error: BackfillError) -> dict[str, str]:
    return {FAILURE_HEADER: error.code}


def _check_key(request: Request, services: Services) -> None:
    """Raises Unauthorized unless it is the one of this process; in a time that tells nothing of it."""
    shown = read_bearer(request.headers.get("authorization")) or ""
    if not services.relay_key or not hmac.compare_digest(shown.encode(), services.relay_key.encode()):
        error = Unauthorized("This is for processes of the installation alone.")
        services.audit.refuse(request.scope, error.code)
        raise error
