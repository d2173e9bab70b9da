"""The engine for any GGUF file: llama.cpp's own server in a child process."""

import sys
from pathlib import Path
from typing import Final

import msgspec

from backfill.config import LlamaCppEngineConfig
from backfill.engines.client import EngineClient
from backfill.engines.hosted import ChildServer, Launch, ensure_model_file
from backfill.engines.interpret import count_usage, refuse
from backfill.engines.llamacpp_messages import HostSettings, Ready
from backfill.engines.llamacpp_requests import Plan, merge_answers, name_model, plan_calls
from backfill.engines.models import name_alias
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply
from backfill.errors import EngineUnavailable

__all__ = ["LlamaCppReplica"]

_GENERATING: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_EMBEDDING: Final = frozenset({"/v1/embeddings"})
# How long OpenMP's threads spin before they sleep. By default so long that the speed falls to a tenth once
# somebody else needs a core; without any, a third is lost when nobody does (docs/engines.md has the figures).
_ENVIRONMENT: Final = {"GOMP_SPINCOUNT": "300"}
# llama.cpp's words for an input that fits no batch; it calls that a server error.
_TOO_LONG = "is too large to process"


class LlamaCppReplica:
    """One child process with one model."""

    cache_habit = CacheHabit.SLOT_AFFINITY

    def __init__(
        self, name: str, config: LlamaCppEngineConfig, client: EngineClient, *, models_dir: Path, log_dir: Path
    ) -> None:
        self.name = name
        self.limits = ReplicaLimits(
            concurrency=config.slots,
            endpoints=config.narrow(_EMBEDDING if config.embeddings else _GENERATING),
            context_tokens=config.context_tokens,
            first_concurrency=config.slots,
            exclusive=config.exclusive,
        )
        self._config = config
        self._models_dir = models_dir
        self._alias = name_alias(config.model)
        self._server = ChildServer(
            *(name, client, log_dir / f"{name}.log", self._prepare),
            kind=config.kind,
            model=self._alias,
            slots=config.slots,
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
            EngineUnavailable: the model is not to be had, or the child did not come up; the message says why.

        """
        await self._server.start()

    async def send(self, endpoint: str, body: bytes, on_first_token: OnFirstToken | None = None) -> Reply:  # noqa: ARG002 - a plain answer comes whole
        """Send one request and wait for its reply; llama.cpp does not tell when the first token came."""
        if endpoint not in self.limits.endpoints:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        if endpoint in _EMBEDDING:
            return await self._call(endpoint, body)
        plan = plan_calls(body)
        if isinstance(plan, Refused):
            return plan
        return await self._carry_out(plan, endpoint)

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None while the child is not up."""
        return await self._server.read_gauges()

    async def stop(self) -> None:
        """End the child, politely for 3 s; safe to call twice, before and during a start."""
        await self._server.stop()

    async def _carry_out(self, plan: Plan, endpoint: str) -> Reply:
        answers = []
        reply: Reply
        # One after the other: a line takes one place in the engine, however many choices it wants.
        for body in plan.bodies:
            reply = await self._call(endpoint, body)
            if not isinstance(reply, Answered):
                return reply
            answers.append(reply)
        answer = answers[0]
        if len(answers) > 1:
            try:
                merged = merge_answers([part.body for part in answers], plan.choices)
            except (msgspec.DecodeError, ValueError):
                return Lost(LostReason.BAD_ANSWER, "The engine's answer has no choices.", answer.status)
            answer = Answered(answer.status, merged, count_usage(merged))
        if plan.model is None or plan.model == self._alias:
            return answer
        return Answered(answer.status, name_model(answer.body, self._alias, plan.model), answer.usage)

    async def _call(self, endpoint: str, body: bytes) -> Reply:
        reply = await self._server.send(endpoint, body)
        if isinstance(reply, Lost) and _TOO_LONG in reply.message:
            return refuse(reply.message.partition(": ")[2])
        return reply

    async def _prepare(self) -> Launch:
        model = await ensure_model_file(self.name, self._config.model, self._models_dir)
        if model.is_dir():
            message = f"Engine {self.name!r} runs llama.cpp, which reads GGUF files; {model} is a folder."
            raise EngineUnavailable(message)
        settings = HostSettings(
            model=str(model),
            alias=self._alias,
            slots=self._config.slots,
            context_tokens=self._config.context_tokens,
            threads=self._config.threads,
            embeddings=self._config.embeddings,
        )
        # -P: what lies in the working directory must not be taken for a library.
        command = (sys.executable, "-P", "-m", "backfill.engines.llamacpp_host", msgspec.json.encode(settings).decode())
        return Launch(command=command, ready=Ready, environment=_ENVIRONMENT)
