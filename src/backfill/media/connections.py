"""Connections to where links lead: the address is checked at the instant at which the socket is made.

So no form of a link, no redirect and no second look-up of a name leads to another place than the one that was checked.
"""

import socket
import ssl
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from yarl import URL

from backfill.config import MediaConfig
from backfill.media.addresses import AddressRules
from backfill.media.resolver import Resolver

__all__ = ["FORBIDDEN_ERRNO", "Connections"]

FORBIDDEN_ERRNO = 0xBACF
"""No system has this number. Where each address of a host is forbidden, what comes of them all together has it too."""
_READ_BYTES = 1 << 18


class Connections:
    """What requests are sent through: to public places, to those that the operator names, or to a proxy."""

    def __init__(self, config: MediaConfig, rules: AddressRules) -> None:
        self._config = config
        self._rules = rules
        self._proxy = URL(config.proxy) if config.proxy else None
        self._resolver = Resolver()
        # Apart, since a connection that is kept open is used again without a check.
        self._checked: aiohttp.ClientSession | None = None
        self._unchecked: aiohttp.ClientSession | None = None

    def request(self, link: URL, total_s: float) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Ask for what lies there; follows nothing. Credentials and cookies are never sent, and none are kept."""
        config = self._config
        timeout = aiohttp.ClientTimeout(
            total=total_s, connect=config.connect_timeout_s, sock_read=config.read_timeout_s
        )
        options: dict[str, Any] = {"allow_redirects": False, "timeout": timeout}
        if self._proxy is not None:
            # It makes the connection, so its own address is the only one that is seen here; the operator gave it.
            options["proxy"] = self._proxy
        is_unchecked = self._proxy is not None or self._rules.allows_name(link.raw_host or "")
        session = self._open_unchecked() if is_unchecked else self._open_checked()
        return session.get(link, **options)

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._checked, self._unchecked):
            if session is not None:
                await session.close()

    def _open_checked(self) -> aiohttp.ClientSession:
        if self._checked is None:
            self._checked = self._make_session(is_checked=True)
        return self._checked

    def _open_unchecked(self) -> aiohttp.ClientSession:
        if self._unchecked is None:
            self._unchecked = self._make_session(is_checked=False)
        return self._unchecked

    def _make_session(self, *, is_checked: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            # How many there are is the business of `FetchPlaces`, so that waiting costs none of a fetch's time.
            limit=0,
            resolver=self._resolver,
            use_dns_cache=False,
            # Those that the system trusts, or that SSL_CERT_FILE names, when the first fetch begins.
            ssl=ssl.create_default_context(),
            socket_factory=self._make_socket if is_checked else None,
        )
        return aiohttp.ClientSession(
            connector=connector,
            # Neither a proxy nor a password out of the environment.
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "backfill"},
        )

    def _make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._rules.allows(str(address[0])):
            raise OSError(FORBIDDEN_ERRNO, "not a public address")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made
