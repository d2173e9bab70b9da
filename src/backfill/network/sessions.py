"""Sessions whose connections are checked at the instant at which the socket is made.

So no form of a link, no redirect and no second look-up of a name leads to another place than the one that was checked.
"""

import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp

from backfill.network.addresses import AddressRules
from backfill.network.resolver import Resolver

__all__ = ["FORBIDDEN_ERRNO", "CheckedSessions"]

FORBIDDEN_ERRNO = 0xBACF
"""No system has this number. Where each address of a host is forbidden, what comes of them all together has it too."""
_READ_BYTES = 1 << 18


class CheckedSessions:
    """What is asked for goes to public places, and to those that the operator allows."""

    def __init__(self, rules: AddressRules, headers: Mapping[str, str], *, keeps_connections: bool = True) -> None:
        self._rules = rules
        self._headers = {"User-Agent": "backfill", **headers}
        self._keeps_connections = keeps_connections
        self._resolver = Resolver()
        # Apart, since a connection that is kept open is used again without a check.
        self._checked: aiohttp.ClientSession | None = None
        self._unchecked: aiohttp.ClientSession | None = None

    def choose(self, host: str, *, by_proxy: bool = False) -> aiohttp.ClientSession:
        """The session for a host; the operator may allow it by its name, wherever that leads.

        `by_proxy`: another one makes the connection, so its own address is the only one that is seen here.
        """
        if by_proxy or self._rules.allows_name(host):
            if self._unchecked is None:
                self._unchecked = self._make_session(is_checked=False)
            return self._unchecked
        if self._checked is None:
            self._checked = self._make_session(is_checked=True)
        return self._checked

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._checked, self._unchecked):
            if session is not None:
                await session.close()

    def _make_session(self, *, is_checked: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            # How many there are is the business of who asks, so that waiting costs none of a request's time.
            limit=0,
            resolver=self._resolver,
            use_dns_cache=False,
            force_close=not self._keeps_connections,
            # Those that the system trusts, or that SSL_CERT_FILE names, when the first request begins.
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
            headers=self._headers,
        )

    def _make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._rules.allows(str(address[0])):
            raise OSError(FORBIDDEN_ERRNO, "not a public address")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made
