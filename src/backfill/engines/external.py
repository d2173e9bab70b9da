"""An engine that somebody else runs: vLLM, SGLang, llama-server, Ollama or any other of OpenAI's shape."""

import asyncio
import base64

from yarl import URL

from backfill.batch import ENDPOINTS
from backfill.config import ExternalEngineConfig
from backfill.engines.client import EngineClient
from backfill.engines.gauges import parse_gauges
from backfill.engines.interpret import refuse
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Lost, Reply
from backfill.errors import EngineUnavailable

__all__ = ["ExternalReplica"]

_PROBE_TIMEOUT_S = 5.0
_GAUGES_TIMEOUT_S = 2.0


class ExternalReplica:
    """One server at a URL. Starting it means to find it there; stopping it means to forget it."""

    cache_habit = CacheHabit.NONE

    def __init__(self, name: str, config: ExternalEngineConfig, client: EngineClient) -> None:
        self.name = name
        self.limits = ReplicaLimits(
            concurrency=config.concurrency,
            endpoints=config.narrow(frozenset(ENDPOINTS)),
            first_concurrency=min(config.first_concurrency, config.concurrency),
            exclusive=config.exclusive,
        )
        self._client = client
        url = URL(config.url)
        self._headers = _authorize(config, url)
        # The credentials now stand in the header; in the URL they would show up in messages.
        self._url = url.with_user(None)
        self._address = str(self._url)
        self._urls = {endpoint: self._url.joinpath(*endpoint.split("/")[1:]) for endpoint in self.limits.endpoints}
        self._is_up = False
        self._starting = asyncio.Lock()

    @property
    def url(self) -> str:
        """Base URL without /v1 and without credentials, whether or not anything answers there."""
        return self._address

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None until `start` found the server, and again once a request could not reach it."""
        return self._address if self._is_up else None

    async def start(self) -> None:
        """Ask for the list of models: any answer will do, unless it says that URL or key are wrong.

        Raises:
            EngineUnavailable: nothing answers at the URL, or it answers 401, 403 or a redirect.

        """
        async with self._starting:
            if self._is_up:
                return
            status, _ = await self._client.get(self._url / "v1" / "models", self._headers, _PROBE_TIMEOUT_S)
            if status in (401, 403):
                message = f"Engine {self.name!r} refuses the configured key (HTTP {status})."
                raise EngineUnavailable(message)
            if 300 <= status < 400:
                message = f"Engine {self.name!r} answers with a redirect (HTTP {status}): check its URL."
                raise EngineUnavailable(message)
            self._is_up = True

    async def send(self, endpoint: str, body: bytes, on_first_token: OnFirstToken | None = None) -> Reply:
        """Send one request and wait for its reply."""
        url = self._urls.get(endpoint)
        if url is None:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        reply = await self._client.send(url, self._headers, body, on_first_token)
        if isinstance(reply, Lost) and reply.never_sent:
            self._is_up = False
        return reply

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None where there is none."""
        try:
            status, text = await self._client.get(self._url / "metrics", self._headers, _GAUGES_TIMEOUT_S)
        except EngineUnavailable:
            return Gauges()
        return parse_gauges(text.decode(errors="replace")) if status == 200 else Gauges()

    async def stop(self) -> None:
        """Forget that the server was there."""
        self._is_up = False


def _authorize(config: ExternalEngineConfig, url: URL) -> dict[str, str]:
    if config.api_key is not None and config.api_key.get_secret_value():
        return {"Authorization": f"Bearer {config.api_key.get_secret_value()}"}
    if url.user is not None:
        pair = f"{url.user}:{url.password or ''}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}
