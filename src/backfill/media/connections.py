"""Requests for what links lead to: one hop each, to where the operator lets them go."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from yarl import URL

from backfill.config import MediaConfig
from backfill.network import AddressRules, CheckedSessions

__all__ = ["Connections"]

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}


class Connections:
    """What requests are sent through: to public places, to those that the operator names, or to a proxy."""

    def __init__(self, config: MediaConfig, rules: AddressRules) -> None:
        self._config = config
        self._proxy = URL(config.proxy) if config.proxy else None
        self._sessions = CheckedSessions(rules, _HEADERS)

    def request(self, link: URL, total_s: float) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Ask for what lies there; follows nothing. Credentials and cookies are never sent, and none are kept."""
        config = self._config
        timeout = aiohttp.ClientTimeout(
            total=total_s, connect=config.connect_timeout_s, sock_read=config.read_timeout_s
        )
        options: dict[str, Any] = {"allow_redirects": False, "timeout": timeout}
        if self._proxy is not None:
            options["proxy"] = self._proxy
        session = self._sessions.choose(link.raw_host or "", by_proxy=self._proxy is not None)
        return session.get(link, **options)

    async def close(self) -> None:
        """Close every connection."""
        await self._sessions.close()
