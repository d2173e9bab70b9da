"""One try to fetch what a link leads to: each hop checked, each answer judged, the bytes passed on as they come."""

import asyncio
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from backfill.config import MediaConfig
from backfill.errors import BackfillError
from backfill.media.arrival import Arrival
from backfill.media.connections import Connections
from backfill.media.failed_request import PASSING_STATUSES, TransferFailed, judge_error
from backfill.media.failures import MediaFailure, MediaRefused
from backfill.media.fetch_places import FetchPlaces
from backfill.media.links import check_link, parse_link
from backfill.network import AddressRules, describe_link
from backfill.wire import read_retry_after

__all__ = ["Transfer"]

_HOPS_MAX = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Transfer:
    """Fetches with one set of connections and limits."""

    def __init__(self, config: MediaConfig) -> None:
        self._config = config
        self._rules = AddressRules(config.allow)
        self._connections = Connections(config, self._rules)
        self._places = FetchPlaces(config.connections, config.connections_per_host)

    async def close(self) -> None:
        """Close every connection."""
        await self._connections.close()

    def check(self, source: str) -> URL:
        """Read a link, and refuse what needs no connection to be judged."""
        link = parse_link(source)
        check_link(link, self._rules, allow_http=self._config.allow_http)
        return link

    async def run(self, first: URL, owner: str, arrival: Arrival) -> None:
        """Fetch into `arrival`, in a place of those that `owner` has a share of.

        Raises MediaRefused, TransferFailed and StoreUnavailable.
        """
        link, hops, left_s = first, 0, self._config.fetch_timeout_s
        loop = asyncio.get_running_loop()
        while True:
            subject = describe_link(first)
            if link is not first:
                subject += f" (redirected to {describe_link(link)})"
            async with self._places.place((link.raw_host or "").lower().rstrip("."), owner):
                began_s = loop.time()
                target = await self._ask(link, subject, left_s, arrival)
                left_s -= loop.time() - began_s
            if target is None:
                return
            hops += 1
            if hops > _HOPS_MAX:
                raise MediaRefused(f"{describe_link(first)} is redirected more than {_HOPS_MAX} times.")
            if left_s <= 0:
                raise TransferFailed(f"took longer than {self._config.fetch_timeout_s:g} s (media.fetch_timeout_s)")
            link = self._follow(link, target, first)

    def _follow(self, link: URL, target: str, first: URL) -> URL:
        """The next hop, as safe as the first."""
        if not target:
            raise MediaRefused(f"{describe_link(first)} is redirected without a word where to.")
        try:
            return self.check(urljoin(str(link), target))
        except MediaFailure as failure:
            raise MediaRefused(f"{describe_link(first)} is redirected: {failure.message}") from None
        except ValueError:
            raise MediaRefused(f"{describe_link(first)} is redirected to what cannot be read as a URL.") from None

    async def _ask(self, link: URL, subject: str, left_s: float, arrival: Arrival) -> str | None:
        """Send one request; gives where it is redirected to, None if all has arrived."""
        try:
            async with self._connections.request(link, left_s) as response:
                if response.status in _REDIRECTS:
                    return response.headers.get("Location", "")
                _check_answer(response, subject)
                if response.content_length is not None:
                    arrival.expect(response.content_length, subject)
                async for data in response.content.iter_any():
                    await arrival.take(data, subject)
                return None
        except (BackfillError, TransferFailed):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a stranger's answer has the client raise
            raise judge_error(error, self._config, subject) from None


def _check_answer(response: aiohttp.ClientResponse, subject: str) -> None:
    status = response.status
    if status in PASSING_STATUSES:
        raise TransferFailed(f"answers HTTP {status}", read_retry_after(response.headers))
    if status != 200:
        raise MediaRefused(f"{subject} answers HTTP {status}.")
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise MediaRefused(f"{subject} is sent in another coding than was asked for (Content-Encoding).")
