"""One API under many roots: clients disagree on whether the base URL ends in /v1.

A client of one major version given the base URL of another asks for `/files` or `/v1/v1/files`. All are served as
`/v1/files`; what belongs to no known resource (`/health`, a dashboard) is left alone.
"""

import re
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from backfill.batch import Dialect

__all__ = ["PathAliases", "Route", "find_route"]

_ALIAS = re.compile(
    r"""
    (?:/(?P<dialect>together|openai))?                # the dialect by name
    (?:/v1){0,2}                                      # no root, one, or two
    (?:/v3(?=/whoami$)|/v2(?=/supported-models))?     # what has only ever had another
    (?P<resource>/(?:
        files|uploads|batches|models|supported-models|estimates|engines|whoami|usage|organization|gc|webhooks
        |chat|completions|embeddings|responses
    )(?:/.*)?)
    """,
    re.VERBOSE | re.DOTALL,
)
_SLASHES = re.compile(r"/{2,}")


class Route(NamedTuple):
    """Where a request goes, and the dialect that its path names, if it names one."""

    path: str
    dialect: Dialect | None


def find_route(path: str) -> Route:
    """The path under which a resource is routed; any other path as it is, but for slashes beside slashes."""
    # A base URL with a slash at its end makes `//v1/files`.
    path = _SLASHES.sub("/", path)
    match = _ALIAS.fullmatch(path.rstrip("/") or "/")
    if match is None:
        return Route(path, None)
    return Route(f"/v1{match['resource']}", Dialect(match["dialect"]) if match["dialect"] else None)


class PathAliases:
    """Rewrites a request's path before it is routed, without a redirect: clients do not resend a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under its canonical path."""
        if scope["type"] == "http":
            path, dialect = find_route(scope["path"])
            scope = {**scope, "backfill.dialect": dialect}
            if path != scope["path"]:
                scope |= {"path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
