"""The engine that is chosen when it starts: OpenVINO where it can run the model's file, else llama.cpp."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from backfill.config import AutoEngineConfig, Config, LlamaCppEngineConfig, OpenVinoEngineConfig
from backfill.engines.child.server import NOT_LOADED, ensure_model_file
from backfill.engines.child.shared_start import SharedStart
from backfill.engines.client import EngineClient
from backfill.engines.forwarding import ForwardedAnswer, answer_reply
from backfill.engines.interpret import refuse
from backfill.engines.llamacpp.replica import LlamaCppReplica
from backfill.engines.models.catalogue import find_model
from backfill.engines.models.openvino import find_obstacle, is_installed
from backfill.engines.openvino.replica import OpenVinoReplica
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Reply
from backfill.errors import EngineUnavailable, InvalidConfig, ModelUnavailable
from backfill.media_file import MediaFile

__all__ = ["AutoReplica", "make_deterministic"]

# What both engines serve: the endpoints must not depend on a choice that is not made yet.
_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
_CONCURRENCY: Final = 64
_NOT_INSTALLED = "OpenVINO is not installed"

log = structlog.get_logger(__name__)


class AutoReplica:
    """One engine with one model; which engine is settled at the first start that succeeds, and then stays.

    `limits` and `cache_habit` are those of the engine chosen, and before that of the one that is likely.
    """

    def __init__(
        self, name: str, config: AutoEngineConfig, client: EngineClient, *, models_dir: Path, log_dir: Path
    ) -> None:
        self.name = name
        self._config = config
        self._models_dir = models_dir
        self._openvino = OpenVinoReplica(name, _for_openvino(config), client, models_dir=models_dir, log_dir=log_dir)
        self._llamacpp = LlamaCppReplica(name, _for_llamacpp(config), client, models_dir=models_dir, log_dir=log_dir)
        self._is_chosen = False
        self._replica: OpenVinoReplica | LlamaCppReplica = self._openvino if is_installed() else self._llamacpp
        self._starting = SharedStart(name, self._choose)

    @property
    def limits(self) -> ReplicaLimits:
        """What the engine can take; changes once, when it is chosen, but for the endpoints."""
        return replace(self._replica.limits, endpoints=self._config.narrow(_ENDPOINTS))

    @property
    def cache_habit(self) -> CacheHabit:
        """How the engine's prefix cache wants to be fed; changes once, when it is chosen."""
        return self._replica.cache_habit

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None while the engine is not up."""
        return self._replica.address

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return self._replica.pid

    @property
    def kind(self) -> str | None:
        """The engine chosen, "openvino" or "llamacpp"; None before."""
        if not self._is_chosen:
            return None
        return "openvino" if self._replica is self._openvino else "llamacpp"

    async def start(self) -> None:
        """Return once an engine answers; at once if it does. Many tasks share one start.

        Raises:
            EngineUnavailable: the model is not to be had, no engine came up, or `deterministic` is wanted of a model
                that only llama.cpp can run; the message says why.

        """
        if self._is_chosen:
            await self._replica.start()
        else:
            await self._starting.join()

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        """Send one request and wait for its reply."""
        if endpoint not in _ENDPOINTS:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        return await self._replica.send(endpoint, body, on_first_token, attachment)

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Send a request that somebody waits for, and hand on its answer as it comes."""
        if endpoint not in _ENDPOINTS:
            return answer_reply(refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404))
        return await self._replica.forward(endpoint, body)

    async def read_gauges(self) -> Gauges:
        """What the engine says of itself; all None while it is not up."""
        return await self._replica.read_gauges()

    async def stop(self) -> None:
        """End the engine; safe to call twice, before and during a start."""
        await self._starting.cancel()
        await self._openvino.stop()
        await self._llamacpp.stop()

    async def _choose(self) -> None:
        obstacle: str | None = _NOT_INSTALLED
        if is_installed():
            path = await ensure_model_file(self.name, self._config.model, self._models_dir)
            obstacle = await asyncio.to_thread(find_obstacle, path) or await self._try_openvino()
        if obstacle and self._config.deterministic:
            raise EngineUnavailable(_name_obstacle(self.name, self._config.model, obstacle))
        if obstacle:
            self._replica = self._llamacpp
            await self._llamacpp.start()
        self._is_chosen = True
        log.info("engine chosen", engine=self.name, kind=self.kind, why=obstacle or "OpenVINO can run the model")

    async def _try_openvino(self) -> str | None:
        """Start it; why it cannot load the model, None if it is up."""
        self._replica = self._openvino
        try:
            await self._openvino.start()
        except EngineUnavailable as error:
            if error.code != NOT_LOADED:
                raise
            if not self._config.deterministic:
                log.warning("OpenVINO did not load the model, trying llama.cpp", engine=self.name, reason=error.message)
            return error.message.rstrip(".")
        return None


def make_deterministic(config: Config) -> Config:
    """The settings with `deterministic` set for every engine that has it.

    Raises:
        InvalidConfig: no engine has it, or it is seen now that one cannot keep it.

    """
    engines = dict(config.engines)
    for name, engine in config.engines.items():
        if isinstance(engine, (AutoEngineConfig, OpenVinoEngineConfig)):
            obstacle = _foresee_obstacle(engine.model, config.models_dir)
            if obstacle:
                raise InvalidConfig(_name_obstacle(name, engine.model, obstacle), param=f"engines.{name}.deterministic")
            engines[name] = engine.model_copy(update={"deterministic": True})
    if engines == config.engines and not any(getattr(engine, "deterministic", False) for engine in engines.values()):
        message = "Deterministic answers need a built-in engine of kind 'auto' or 'openvino'; none is configured."
        raise InvalidConfig(message, param="engines")
    return config.model_copy(update={"engines": engines})


def _foresee_obstacle(model: str, models_dir: Path) -> str | None:
    if not is_installed():
        return _NOT_INSTALLED
    try:
        return find_obstacle(find_model(model, models_dir))
    except ModelUnavailable:
        return None  # it is not here yet: the start will tell


def _name_obstacle(name: str, model: str, obstacle: str) -> str:
    return f"Engine {name!r} cannot answer deterministically: OpenVINO cannot run {model!r}: {obstacle}."


def _for_openvino(config: AutoEngineConfig) -> OpenVinoEngineConfig:
    shared = config.model_dump(include=set(OpenVinoEngineConfig.model_fields) - {"kind", "concurrency"})
    return OpenVinoEngineConfig.model_validate(shared | {"concurrency": config.concurrency or _CONCURRENCY})


def _for_llamacpp(config: AutoEngineConfig) -> LlamaCppEngineConfig:
    shared = config.model_dump(include=set(LlamaCppEngineConfig.model_fields) - {"kind"})
    return LlamaCppEngineConfig.model_validate(shared)
