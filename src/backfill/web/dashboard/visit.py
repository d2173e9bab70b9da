"""One request for a page: who asks, what he may see, and how he is answered."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from backfill.api_key import Caller, Scope
from backfill.errors import BackfillError, Forbidden
from backfill.web.api.errors import answer_unexpected, find_status
from backfill.web.api.scopes import check_scope
from backfill.web.api.usage_scope import find_owner
from backfill.web.dashboard.forms import FORM_BYTES_MAX, Form, read_form
from backfill.web.dashboard.house import House
from backfill.web.dashboard.sessions import COOKIE

__all__ = ["ROOT", "Handler", "Visit", "open_to_callers"]

ROOT = "/dashboard"
HEADERS = {
    # Pictures of requests are data: URLs; all else comes from here.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    # With "no-referrer" browsers send forms from nowhere (Origin: null), and the server could not tell whose they are.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Visit(NamedTuple):
    """A request of somebody who is let in."""

    request: Request
    house: House
    caller: Caller

    @property
    def owner(self) -> str | None:
        """Whose batches are shown; None: everybody's, to an admin."""
        return find_owner(self.caller)

    @property
    def cookie(self) -> str | None:
        """The session."""
        return self.request.cookies.get(COOKIE)

    def check(self, method: str, path: str) -> None:
        """Raises Forbidden unless the caller may do what this route of the API does."""
        check_scope(self.caller, method, path)

    def may(self, method: str, path: str) -> bool:
        """Whether he may."""
        try:
            self.check(method, path)
        except Forbidden:
            return False
        return True

    async def read_form(self, limit_bytes: int = FORM_BYTES_MAX) -> Form:
        """The form that was sent; raises Forbidden if it is not this session's own."""
        form = await read_form(self.request, limit_bytes)
        self.check_token(form.values.get("token", ""))
        return form

    def check_token(self, token: str) -> None:
        """Raises Forbidden unless the token is of this session."""
        self.house.sessions.check_token(self.cookie, token)

    def frame(self) -> dict[str, Any]:
        """What every page shows around its own matter."""
        return {
            "root": ROOT,
            "path": self.request.url.path,
            "token": self.house.sessions.make_token(self.cookie),
            "has_session": self.cookie is not None and self.caller.owner != "",
            "owner": self.caller.owner,
            "may_work": self.may("POST", "/v1/batches"),
            "may_keys": Scope.ADMIN in self.caller.scopes,
            "live": None,
            "notice": self.request.query_params.get("notice", "")[:200],
        }

    def show(self, template: str, context: dict[str, Any], status: int = 200) -> Response:
        """A page."""
        return HTMLResponse(self.house.render(template, self.frame() | context), status, HEADERS)

    def go(self, path: str) -> Response:
        """On to another page, which is asked for anew."""
        return RedirectResponse(path, 303, HEADERS)


Handler = Callable[[Visit], Awaitable[Response]]


def open_to_callers(house: House, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for those who are logged in; others are sent to the page where they can be."""

    async def answer(request: Request) -> Response:
        caller = None
        try:
            caller = await house.sessions.find_caller(request.cookies.get(COOKIE))
            if caller is None:
                return RedirectResponse(f"{ROOT}/login", 303, HEADERS)
            return await handle(Visit(request, house, caller))
        except BackfillError as error:
            return _show_error(request, house, caller, error)
        except Exception as error:  # noqa: BLE001 - as the API's boundary: told in the log, and nothing of it here
            answer_unexpected(request.scope, error)
            return _show_error(request, house, caller, BackfillError("Something went wrong here; the log says what."))

    return answer


def _show_error(request: Request, house: House, caller: Caller | None, error: BackfillError) -> Response:
    status = find_status(error)
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"error": error.message}, status, HEADERS)
    visit = Visit(request, house, caller or Caller("", scopes=frozenset()))
    return visit.show("error.html", {"title": "That did not work", "message": error.message, "status": status}, status)
