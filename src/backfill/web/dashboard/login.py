"""In with a key, and out again."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from backfill.errors import BackfillError, Unauthorized
from backfill.web.api.errors import find_status
from backfill.web.dashboard.forms import read_form
from backfill.web.dashboard.house import House
from backfill.web.dashboard.sessions import COOKIE, SESSION_S
from backfill.web.dashboard.visit import HEADERS, ROOT, Visit

__all__ = ["log_out", "make_entry", "make_form"]

_Endpoint = Callable[[Request], Awaitable[Response]]


def make_form(house: House) -> _Endpoint:
    """The page that asks for a key."""

    async def show(request: Request) -> Response:
        try:
            if await house.sessions.find_caller(request.cookies.get(COOKIE)) is not None:
                return RedirectResponse("/", 303, HEADERS)
        except BackfillError as error:
            return _ask(house, error.message, find_status(error))
        return _ask(house)

    return show


def make_entry(house: House) -> _Endpoint:
    """Where the key is sent to. It needs no token: who has the key may come in, from wherever he sends it."""

    async def enter(request: Request) -> Response:
        try:
            form = await read_form(request)
            cookie = await house.sessions.open(form.values.get("key", "").strip())
        except Unauthorized as error:
            house.services.audit.refuse(request.scope, error.code)
            return _ask(house, "This key lets nobody in.", 401)
        except BackfillError as error:
            return _ask(house, error.message, find_status(error))
        response = RedirectResponse("/", 303, HEADERS)
        is_secure = request.url.scheme == "https" or house.services.config.server.public_url.startswith("https://")
        response.set_cookie(
            COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=is_secure, path="/"
        )
        return response

    return enter


async def log_out(visit: Visit) -> Response:
    """End the session in this browser."""
    await visit.read_form()
    response = visit.go(f"{ROOT}/login")
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def _ask(house: House, message: str = "", status: int = 200) -> Response:
    return HTMLResponse(
        house.render("login.html", {"title": "Log in", "message": message, "root": ROOT}), status, HEADERS
    )
