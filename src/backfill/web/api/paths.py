"""One API under many roots: clients disagree on whether the base URL ends in /v1.

A client of one major version given the base URL of another asks for `/files` or `/v1/v1/files`. All are served as
`/v1/files`; what belongs to no known resource (`/health`, a dashboard) is left alone.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PathAliases", "canonical_path"]

_ALIAS = re.compile(
    r"""
    (?:/together)?                                  # the dialect by name, for a server that speaks several
    (?:/v1){0,2} (?:/v3(?=/whoami$))?               # no root, one, or two; the command line's own /v3
    (?P<resource>/(?:files|uploads|batches|models|whoami)(?:/.*)?)
    """,
    re.VERBOSE | re.DOTALL,
)


def canonical_path(path: str) -> str:
    """The path under which a resource is routed; any other path as it is."""
    trimmed = path.rstrip("/") or "/"
    match = _ALIAS.fullmatch(trimmed)
    return f"/v1{match['resource']}" if match else path


class PathAliases:
    """Rewrites a request's path before it is routed, without a redirect: clients do not resend a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under its canonical path."""
        if scope["type"] == "http":
            path = canonical_path(scope["path"])
            if path != scope["path"]:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
