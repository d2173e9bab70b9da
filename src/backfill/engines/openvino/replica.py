"""The engine for what OpenVINO reads: its continuous batching in a child process that speaks OpenAI's HTTP."""

import sys
from pathlib import Path
from typing import Final

import msgspec

from backfill.config import OpenVinoEngineConfig
from backfill.engines.builtin.exchange import open_exchange
from backfill.engines.builtin.streams import open_live
from backfill.engines.child.replica import ChildReplica
from backfill.engines.child.server import ChildServer, Launch, ensure_model_file
from backfill.engines.client import EngineClient
from backfill.engines.forwarding import ForwardedAnswer, answer_reply
from backfill.engines.interpret import refuse
from backfill.engines.models.catalogue import name_alias
from backfill.engines.models.openvino import is_installed
from backfill.engines.openvino.messages import LIVE_HEADER, HostSettings, Ready
from backfill.engines.replica import CacheHabit, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Refused, Reply
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile

__all__ = ["OpenVinoReplica"]

_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})

_LIVE: Final = {LIVE_HEADER: "1"}


class OpenVinoReplica(ChildReplica):
    """One child process with one model. It sends the head of an answer at the first token, and the body at the end."""

    cache_habit = CacheHabit.PREFIX_LEADER

    def __init__(
        self, name: str, config: OpenVinoEngineConfig, client: EngineClient, *, models_dir: Path, log_dir: Path
    ) -> None:
        self.name = name
        self.limits = ReplicaLimits(
            concurrency=config.concurrency,
            endpoints=config.narrow(_ENDPOINTS),
            context_tokens=config.context_tokens or None,
            first_concurrency=config.concurrency,
            exclusive=config.exclusive,
            puts_live_first=True,
        )
        self._config = config
        self._models_dir = models_dir
        self._alias = name_alias(config.model)
        super().__init__(
            ChildServer(
                *(name, client, log_dir / f"{name}.log", self._prepare),
                kind=config.kind,
                model=self._alias,
                concurrency=config.concurrency,
            )
        )

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,  # noqa: ARG002 - none of its endpoints takes one
    ) -> Reply:
        """Send one request and wait for its reply."""
        if endpoint not in self.limits.endpoints:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        exchange = open_exchange("openvino", endpoint, body)
        if isinstance(exchange, Refused):
            return exchange
        return exchange.close(await self._server.send(exchange.endpoint, exchange.body, on_first_token))

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Send a request that somebody waits for, and hand on its answer as it comes."""
        if endpoint not in self.limits.endpoints:
            return answer_reply(refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404))
        live = open_live("openvino", endpoint, body)
        if isinstance(live, Refused):
            return answer_reply(live)
        exchange = live.exchange
        if exchange.finish:
            return live.close(await self._server.send(exchange.endpoint, exchange.body, headers=_LIVE))
        answer = await self._server.forward(exchange.endpoint, live.stream_body or exchange.body, _LIVE)
        answer.begins_at_first_token = answer.status < 300
        return answer

    async def _prepare(self) -> Launch:
        if not is_installed():
            message = f"Engine {self.name!r} needs OpenVINO, which is not installed: `pip install openvino-genai`."
            raise EngineUnavailable(message)
        model = await ensure_model_file(self.name, self._config.model, self._models_dir)
        settings = HostSettings(
            model=str(model),
            alias=self._alias,
            concurrency=self._config.concurrency,
            context_tokens=self._config.context_tokens,
            kv_cache_gb=self._config.kv_cache_gb,
            threads=self._config.threads,
            deterministic=self._config.deterministic,
        )
        # -P: what lies in the working directory must not be taken for a library.
        command = (sys.executable, "-P", "-m", "backfill.engines.openvino.host", msgspec.json.encode(settings).decode())
        return Launch(command=command, ready=Ready)
