"""An engine that somebody else runs: vLLM, SGLang, llama-server, Ollama or any other of OpenAI's shape."""

import asyncio
import base64
import functools
from dataclasses import replace
from typing import Final

import msgspec
from yarl import URL

from backfill.batch import ENDPOINTS
from backfill.config import ExternalEngineConfig
from backfill.engines.answer import NOT_JSON
from backfill.engines.client import EngineClient
from backfill.engines.forwarding import NOT_SENT, ForwardedAnswer, StreamedAnswer, answer_reply
from backfill.engines.gauges import parse_gauges
from backfill.engines.interpret import refuse
from backfill.engines.priority import Priorities
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Answered, Lost, Reply
from backfill.engines.response_object import complete_response
from backfill.engines.sequences import InFlight
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile

__all__ = ["ExternalReplica"]

_RESPONSES: Final = "/v1/responses"
_PROBE_TIMEOUT_S = 5.0
_GAUGES_TIMEOUT_S = 2.0
# A client that draws a menu asks with every page.
_MODELS_KEPT_S = 10.0


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]


_models = msgspec.json.Decoder(_ModelList)


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
            pictures=None,
            clips=True,
            takes_links=True,
        )
        self._client = client
        url = URL(config.url)
        self._headers = _authorize(config, url)
        # The credentials now stand in the header; in the URL they would show up in messages.
        self._url = url.with_user(None)
        self._address = str(self._url)
        self._urls = {endpoint: self._url.joinpath(*endpoint.split("/")[1:]) for endpoint in self.limits.endpoints}
        self._in_flight = InFlight()
        self._priorities = Priorities(name)
        self._is_up = False
        self._starting = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._models: list[str] = []
        self._models_due_s = 0.0

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
            status, models = await self._client.get(self._url / "v1" / "models", self._headers, _PROBE_TIMEOUT_S)
            if status in (401, 403):
                message = f"Engine {self.name!r} refuses the configured key (HTTP {status})."
                raise EngineUnavailable(message)
            if 300 <= status < 400:
                message = f"Engine {self.name!r} answers with a redirect (HTTP {status}): check its URL."
                raise EngineUnavailable(message)
            self._priorities.learn(models)
            self._is_up = True

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        """Send one request and wait for its reply."""
        url = self._urls.get(endpoint)
        if url is None:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        number = self._in_flight.enter(body)
        try:
            sent = self._priorities.mark_line(endpoint, body) if self._priorities.marks_lines else body
            reply = await self._client.send(url, endpoint, self._headers, sent, on_first_token, attachment)
            if sent is not body and self._priorities.is_refusal(reply):
                reply = await self._client.send(url, endpoint, self._headers, body, on_first_token, attachment)
        finally:
            self._in_flight.leave(number)
        if isinstance(reply, Answered):
            if endpoint == _RESPONSES:
                return Answered(reply.status, complete_response(reply.body, body), reply.usage)
        elif isinstance(reply, Lost) and reply.never_sent:
            self._is_up = False
        return reply

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Send a request that somebody waits for, and hand on its answer as it comes."""
        url = self._urls.get(endpoint)
        if url is None:
            return answer_reply(refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404))
        number = self._in_flight.enter(body)
        is_streamed = False
        try:
            sent = self._priorities.mark_live(endpoint, body)
            answer = await self._client.forward(url, self._headers, sent)
            if isinstance(answer, StreamedAnswer):
                is_streamed = True
                answer.on_close = functools.partial(self._in_flight.leave, number)
        except EngineUnavailable as error:
            if error.code == NOT_SENT:
                self._is_up = False
            raise
        finally:
            if not is_streamed:
                self._in_flight.leave(number)
        return answer

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None where there is none."""
        before = self._in_flight.count_sequences()
        try:
            status, text = await self._client.get(self._url / "metrics", self._headers, _GAUGES_TIMEOUT_S)
        except EngineUnavailable:
            return Gauges()
        if status != 200:
            return Gauges()
        gauges = parse_gauges(text.decode(errors="replace"))
        if gauges.running is None or gauges.waiting is None:
            return gauges
        # What has just come or gone may be counted on one side only.
        foreign = gauges.running + gauges.waiting - max(before, self._in_flight.count_sequences())
        return replace(gauges, foreign=max(0, foreign))

    async def list_models(self) -> list[str]:
        """The ids that its list of models has; nothing while there is no such list. Asked again after a while."""
        async with self._asking:
            now_s = asyncio.get_running_loop().time()
            if now_s >= self._models_due_s:
                self._models = await self._read_models()
                self._models_due_s = now_s + _MODELS_KEPT_S
            return self._models

    async def stop(self) -> None:
        """Forget that the server was there."""
        self._is_up = False

    async def _read_models(self) -> list[str]:
        try:
            status, body = await self._client.get(self._url / "v1" / "models", self._headers, _GAUGES_TIMEOUT_S)
            return [model.id for model in _models.decode(body).data] if status == 200 else []
        except (EngineUnavailable, *NOT_JSON):
            return []


def _authorize(config: ExternalEngineConfig, url: URL) -> dict[str, str]:
    if config.api_key is not None and config.api_key.get_secret_value():
        return {"Authorization": f"Bearer {config.api_key.get_secret_value()}"}
    if url.user is not None:
        pair = f"{url.user}:{url.password or ''}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}
