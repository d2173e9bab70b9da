"""The engine for what OpenVINO reads: its continuous batching in a child process that speaks OpenAI's HTTP."""

import sys
from pathlib import Path
from typing import Final

import msgspec

from backfill.config import OpenVinoEngineConfig
from backfill.engines.client import EngineClient
from backfill.engines.hosted import ChildServer, Launch, ensure_model_file
from backfill.engines.interpret import refuse
from backfill.engines.models import name_alias
from backfill.engines.openvino_messages import HostSettings, Ready
from backfill.engines.openvino_models import is_installed
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Reply
from backfill.errors import EngineUnavailable

__all__ = ["OpenVinoReplica"]

_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})


class OpenVinoReplica:
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
        )
        self._config = config
        self._models_dir = models_dir
        self._alias = name_alias(config.model)
        self._server = ChildServer(
            *(name, client, log_dir / f"{name}.log", self._prepare),
            kind=config.kind,
            model=self._alias,
            concurrency=config.concurrency,
        )

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None while the child is not up."""
        return self._server.address

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._server.pid

    async def start(self) -> None:
        """Return once the engine answers; at once if it does. Many tasks share one start.

        The first start fetches the model if it is not there. A start soon after the child ended waits its turn
        (`restarts`).

        Raises:
            EngineUnavailable: library or model is not to be had, or the child did not come up; the message says why.

        """
        await self._server.start()

    async def send(self, endpoint: str, body: bytes, on_first_token: OnFirstToken | None = None) -> Reply:
        """Send one request and wait for its reply."""
        if endpoint not in self.limits.endpoints:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        return await self._server.send(endpoint, body, on_first_token)

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None while the child is not up."""
        return await self._server.read_gauges()

    async def stop(self) -> None:
        """End the child, politely for 3 s; safe to call twice, before and during a start."""
        await self._server.stop()

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
        command = (sys.executable, "-P", "-m", "backfill.engines.openvino_host", msgspec.json.encode(settings).decode())
        return Launch(command=command, ready=Ready)
