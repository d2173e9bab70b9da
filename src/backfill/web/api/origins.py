"""Who may ask a server that knows no keys: programs that reach it, but no web page from elsewhere.

A browser sends simple requests to any address for any page (cross-site request forgery), and lets a page read what
comes from its own name, also once that name leads to this machine (DNS rebinding). With keys neither gains anything,
since no page knows one. Without, two things that a browser always says truly are looked at: the name under which it
found the server, and the page that asks. Other clients say nothing of pages, and are asked nothing more.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from backfill.accounts import Keys
from backfill.config import ServerConfig
from backfill.errors import StoreUnavailable
from backfill.web.api.errors import answer_error

__all__ = ["OriginCheck"]

_HOST = re.compile(r"(?P<name>\[[^\[\]]+\]|[^:\[\]]+)(?::\d{0,5})?")
_ORIGIN = re.compile(r"https?://(?P<host>[^/?#@]+)", re.IGNORECASE)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
# "none" is an address that the user typed.
_OWN_SITES = frozenset({"", "same-origin", "none"})


class OriginCheck:
    """Refuses names that anybody could have pointed here, and requests of pages that are not this server's."""

    def __init__(self, app: ASGIApp, server: ServerConfig, keys: Keys) -> None:
        self._app = app
        self._keys = keys
        self._public_host = _host_of(server.public_url)
        names = {_name_of(server.host if ":" not in server.host else f"[{server.host}]"), _name_of(self._public_host)}
        self._names = names - {""} | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer that it is refused before anything is done."""
        if scope["type"] == "http" and not await self._are_keys_there():
            host = _read_header(scope, b"host")
            if host and not self._is_trusted(host):
                message = (
                    f"This server knows no keys and does not answer to the host {host[:255]!r}. If that is its name, "
                    "set server.public_url to the URL under which clients reach it, or make a key: backfill keys "
                    "create."
                )
                await answer_error(403, message, code="untrusted_host")(scope, receive, send)
                return
            if self._is_foreign(scope, host):
                message = (
                    "This server knows no keys and takes no requests from web pages of other sites. If the page is its "
                    "own, set server.public_url to the URL under which browsers reach it, or make a key: backfill keys "
                    "create."
                )
                await answer_error(403, message, code="cross_site_request")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _are_keys_there(self) -> bool:
        """Whether a page would need a key; False, so that pages are looked at, if it cannot be told."""
        try:
            return await self._keys.are_there()
        except StoreUnavailable:
            return False

    def _is_trusted(self, host: str) -> bool:
        name = _name_of(host)
        return name in self._names or _is_address(name)

    def _is_foreign(self, scope: Scope, host: str) -> bool:
        origin = _read_header(scope, b"origin")
        # With the port: another server of this machine is another site to us, whatever browsers call it.
        if origin and _host_of(origin) not in {host.lower(), self._public_host} - {""}:
            return True
        return _read_header(scope, b"sec-fetch-site").lower() not in _OWN_SITES and not _is_navigation(scope)


def _is_navigation(scope: Scope) -> bool:
    """A link that the user followed: the page that has it sees nothing of the answer, and a GET changes nothing."""
    return (
        scope["method"] in {"GET", "HEAD"}
        and _read_header(scope, b"sec-fetch-mode") == "navigate"
        and _read_header(scope, b"sec-fetch-dest") == "document"
    )


def _read_header(scope: Scope, wanted: bytes) -> str:
    """The header; one that is there twice comes with a comma, as which it is no host and no origin."""
    return ", ".join(value.decode("latin-1").strip() for name, value in scope["headers"] if name == wanted)


def _host_of(url: str) -> str:
    """Host and port of an origin or URL, as a browser writes them; empty for what is none, such as "null"."""
    found = _ORIGIN.match(url)
    if found is None:
        return ""
    return found["host"].lower().removesuffix(_DEFAULT_PORT[urlsplit(url).scheme.lower()])


def _name_of(host: str) -> str:
    """The name alone; empty for what is none."""
    found = _HOST.fullmatch(host.lower())
    return found["name"].removesuffix(".") if found else ""


def _is_address(name: str) -> bool:
    """Whether this is an IP address: no DNS answer can point it elsewhere."""
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
