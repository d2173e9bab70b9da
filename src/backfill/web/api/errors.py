"""Errors as clients see them: one shape for every kind of failure, and headers that say whether to try again."""

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from backfill.errors import (
    BackfillError,
    Conflict,
    EngineUnavailable,
    Forbidden,
    InvalidInput,
    LimitReached,
    ModelUnavailable,
    NotFound,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
)
from backfill.validation import describe_fault, describe_json_fault
from backfill.web.api.bodies import JsonResponse
from backfill.wire.together import render_error

__all__ = [
    "RETRY_AFTER_S",
    "answer_error",
    "answer_unexpected",
    "explain_validation",
    "find_status",
    "handle_errors",
]

RETRY_AFTER_S = 5
_MESSAGE_LENGTH_MAX = 1000

_log = structlog.get_logger(__name__)

# A class stands before its parents. A state conflict is a 400: clients try a 409 again.
_STATUSES: tuple[tuple[type[BackfillError], int], ...] = (
    (TooLarge, 413),
    (InvalidInput, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 400),
    (LimitReached, 429),
    (StoreFull, 507),
    (StoreCorrupt, 500),
    (StoreUnavailable, 503),
    (EngineUnavailable, 503),
    (ModelUnavailable, 503),
)
_CODES = {403: "forbidden", 404: "unknown_url", 405: "method_not_allowed", 416: "range_not_satisfiable"}
_UNEXPECTED = "The server failed to answer this request; its log says why, under the id in the x-request-id header."
_UNAVAILABLE = "The server cannot do this at the moment; its log says why. Try again soon."


def handle_errors(app: FastAPI) -> None:
    """Have every error that a handler or the router raises answered in the one shape."""
    app.exception_handler(BackfillError)(_answer_backfill_error)
    app.exception_handler(HTTPException)(_answer_http_exception)
    app.exception_handler(RequestValidationError)(_answer_validation_error)
    app.exception_handler(ClientDisconnect)(_answer_disconnect)


def answer_error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in the one shape, with the headers that go with its status."""
    if len(message) > _MESSAGE_LENGTH_MAX:
        # What was sent stands in the middle; the ends say what is wrong with it.
        half = _MESSAGE_LENGTH_MAX // 2
        message = f"{message[:half]} … {message[-half:]}"
    more = dict(headers or {})
    if status == 503:
        more["retry-after"] = str(RETRY_AFTER_S)
    elif status < 500 or status == 507:
        more.setdefault("x-should-retry", "false")
    if status == 401:
        more["www-authenticate"] = "Bearer"
    return JsonResponse(render_error(message, _kind(status), code=code, param=param), status, more)


def answer_unexpected(scope: Scope, error: Exception) -> Response:
    """The answer to what nobody foresaw: the log gets the traceback, the client none of it."""
    # Formatted here: a log renderer may show local variables, and a key may be among them.
    _log_failure(scope, traceback="".join(traceback.format_exception(error)))
    return answer_error(500, _UNEXPECTED, code="internal_error")


def explain_validation(problems: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Pydantic's first complaint as one sentence, and the dotted field that it is about."""
    first = problems[0]
    location = [str(part) for part in first["loc"] if part not in {"body", "query", "path"}]
    param = ".".join(location)
    if not param:
        if first["type"] == "json_invalid":
            reason = describe_json_fault(first["msg"].removeprefix("Invalid JSON: "))
            return f"The body is not valid JSON: {reason}.", None
        return "The body must be a JSON object.", None
    return f"{param} {describe_fault(first)}.", param


def _log_failure(scope: Scope, **facts: str) -> None:
    # Without the query: it may hold a signature.
    where = {"method": scope["method"], "path": scope["path"], "request_id": scope["backfill.request_id"]}
    _log.error("request failed", **where, **facts)


def _kind(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error"
    )


def find_status(error: BackfillError) -> int:
    """The HTTP status that tells of the error."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


async def _answer_backfill_error(request: Request, error: BackfillError) -> Response:
    status = find_status(error)
    message = error.message
    if status >= 500 and not isinstance(error, StoreFull):
        # The message names paths of this machine: that is for the log.
        _log_failure(request.scope, code=error.code, reason=message)
        message = _UNAVAILABLE if status == 503 else _UNEXPECTED
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, LimitReached) else None
    return answer_error(status, message, code=error.code, param=error.param, headers=headers)


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    message = str(error.detail)
    headers = error.headers
    # Not of `request.url`: that is put together with the Host header, which may be anything.
    path = request.scope["path"]
    if error.status_code == 404:
        message = f"There is nothing at {path}. GET /openapi.json lists what there is."
    elif error.status_code == 405:
        allowed = ", ".join(_find_methods(request.app.state.routes, path))
        message = f"{request.method} is not allowed at {path}; allowed is {allowed}."
        headers = {"allow": allowed}
    return answer_error(error.status_code, message, code=_CODES.get(error.status_code), headers=headers)


def _find_methods(routes: Sequence[Route], path: str) -> list[str]:
    """What is allowed at this path; the framework itself names the methods of one handler only."""
    found = next((route.path for route in routes if route.path_regex.match(path)), None)
    methods = {method for route in routes if route.path == found for method in route.methods or ()}
    # Served by `head`, which no route knows of.
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _answer_validation_error(_request: Request, error: RequestValidationError) -> Response:
    message, param = explain_validation(error.errors())
    return answer_error(400, message, code=InvalidInput.code, param=param)


async def _answer_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    """Nobody reads this; it only ends the request in good order."""
    return answer_error(400, "The connection was closed before the whole body had come.", code="incomplete_body")
