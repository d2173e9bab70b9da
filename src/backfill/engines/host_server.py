"""The HTTP server of a child process that runs an engine in Python: who may ask, how it says no, where it listens."""

import asyncio
import hmac
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import uvloop
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from backfill.engines.host_refusal import Refusal

__all__ = ["JSON", "make_app", "open_server", "run"]

JSON: Final = {"Content-Type": "application/json"}
"""The headers of an answer that is JSON."""
_HEALTH: Final = "/health"
_FAREWELL_S: Final = 5.0


def make_app(
    key: str, *, body_size_max_bytes: int, failures: type[Exception], explain: Callable[[Exception], str]
) -> web.Application:
    """An application with /health alone, which tells nothing. All else wants `key`: others of the machine have none.

    What is raised of `failures` is answered with 500 and what `explain` makes of it. 0 bytes: bodies have no limit.
    """
    middlewares = [_make_answer_errors(failures, explain), _make_door(f"Bearer {key}".encode())]
    app = web.Application(client_max_size=body_size_max_bytes, middlewares=middlewares)
    app.router.add_get(_HEALTH, _show_health)
    return app


async def open_server(app: web.Application) -> tuple[web.AppRunner, str]:
    """Listen on a free local port; gives what ends it, and the URL.

    A client that hangs up cancels its handler, and the handler its work.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_FAREWELL_S)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end on the quick event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def _make_answer_errors(failures: type[Exception], explain: Callable[[Exception], str]) -> Middleware:
    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as error:
            return _make_error(400, error.message, error.param, error.code)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _make_error(error.status, f"{request.method} {request.path}: {error.reason}.")
        except failures as error:
            words = explain(error)
            sys.stderr.write(f"{type(error).__name__}: {words}\n")
            return _make_error(500, words)

    return answer_errors


def _make_door(wanted: bytes) -> Middleware:
    @web.middleware
    async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        brought = request.headers.get(hdrs.AUTHORIZATION, "").encode(errors="surrogateescape")
        if request.path != _HEALTH and not hmac.compare_digest(brought, wanted):
            return _make_error(401, "This engine answers only the Backfill that started it.", code="invalid_api_key")
        return await handler(request)

    return check_key


def _make_error(status: int, message: str, param: str | None = None, code: str | None = None) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return web.Response(status=status, headers=JSON, body=msgspec.json.encode({"error": error}))


async def _show_health(_request: web.Request) -> web.Response:
    return web.Response(headers=JSON, body=b'{"status":"ok"}')
