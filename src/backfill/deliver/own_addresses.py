"""The addresses that batches name for their own end: judged when a batch is made, and each time when one is asked."""

import asyncio
import socket
from contextlib import suppress

import aiohttp
from yarl import URL

from backfill.batch import Batch, File
from backfill.config import WebhooksConfig
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.network import FORBIDDEN_ERRNO, AddressRules, CheckedSessions, Resolver, parse_address, read_link

__all__ = ["OwnAddresses"]

_LENGTH_MAX = 2048
# A name server that is slow must not keep a batch from being made: what counts is where a message goes at last.
_LOOK_UP_S = 5.0
_NOT_PUBLIC = "webhook_url is not at a public address; the server's settings may allow others (webhooks.allow)."


class OwnAddresses:
    """Strangers to the server: public ones only, unless the operator allows others."""

    def __init__(self, config: WebhooksConfig) -> None:
        self._config = config
        self._rules = AddressRules(config.allow)
        # A connection that is kept open would be used again without a check.
        self._sessions = CheckedSessions(self._rules, {}, keeps_connections=False)
        self._resolver = Resolver()

    async def check(self, batch: Batch, _file: File, _survey: Survey) -> Batch:
        """An `Appraise`: raises InvalidInput if messages to the batch's own address never can be sent."""
        if batch.own_webhook_url is not None:
            link = self._read(batch.own_webhook_url)
            await self._check_place(link)
        return batch

    async def post(self, url: str, content: bytes, headers: dict[str, str]) -> int:
        """Send a message; gives the status of the answer, of which no more is read. Raises what keeps it from going."""
        link = self._read(url)
        timeout = aiohttp.ClientTimeout(total=self._config.timeout_s)
        session = self._sessions.choose(link.raw_host or "")
        try:
            async with session.post(
                link, data=content, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                return response.status
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno == FORBIDDEN_ERRNO:
                raise InvalidInput(_NOT_PUBLIC) from None
            raise

    async def close(self) -> None:
        """Close every connection."""
        await self._sessions.close()

    def _read(self, url: str) -> URL:
        # None of the messages has the address in it: it may be as secret as a password.
        if len(url) > _LENGTH_MAX:
            raise _refuse(f"webhook_url is longer than {_LENGTH_MAX} characters.")
        link = read_link(url) if url.isprintable() else None
        if link is None:
            raise _refuse("webhook_url cannot be read as a URL with a scheme and a host.")
        if link.scheme != "https" and not (link.scheme == "http" and self._config.allow_http):
            raise _refuse("webhook_url must begin with https://; the settings may allow http:// (webhooks.allow_http).")
        return link

    async def _check_place(self, link: URL) -> None:
        """Refuse an address that is written out, and a name that leads to no place which is allowed."""
        host = link.host or ""
        if self._rules.allows_name(link.raw_host or ""):
            return
        found = [host] if parse_address(host) is not None else await self._look_up(link)
        if found and not any(map(self._rules.allows, found)):
            raise _refuse(_NOT_PUBLIC)

    async def _look_up(self, link: URL) -> list[str]:
        """Where the name leads now; nothing if that is not known."""
        with suppress(OSError, UnicodeError, TimeoutError):
            async with asyncio.timeout(_LOOK_UP_S):
                found = await self._resolver.resolve(link.raw_host or "", link.port or 0, socket.AF_UNSPEC)
                return [each["host"] for each in found]
        return []


def _refuse(message: str) -> InvalidInput:
    return InvalidInput(message, param="webhook_url", code="invalid_webhook_url")
