"""The engine for any GGUF file: llama.cpp's own server in a child process."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from backfill.config import LlamaCppEngineConfig
from backfill.engines.answer import count_usage
from backfill.engines.builtin.exchange import Abilities, Exchange, open_exchange
from backfill.engines.builtin.pictures import TAKEN_PICTURES
from backfill.engines.builtin.streams import open_live
from backfill.engines.child.replica import ChildReplica
from backfill.engines.child.server import ChildServer, Launch, ensure_model_file
from backfill.engines.client import EngineClient
from backfill.engines.forwarding import ForwardedAnswer, RenamingAnswer, answer_reply
from backfill.engines.interpret import refuse
from backfill.engines.llamacpp.context import fit_context
from backfill.engines.llamacpp.dialect import translate
from backfill.engines.llamacpp.messages import HostSettings, Ready
from backfill.engines.llamacpp.requests import Plan, merge_answers, name_member, name_model, plan_calls
from backfill.engines.llamacpp.streams import UnlikeWhole, ask_for_stream, gather_stream
from backfill.engines.models.catalogue import name_alias
from backfill.engines.models.gguf_header import read_gguf_header
from backfill.engines.replica import CacheHabit, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile

__all__ = ["LlamaCppReplica"]

_GENERATING: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_EMBEDDING: Final = frozenset({"/v1/embeddings"})
# How long OpenMP's threads spin before they sleep. By default so long that the speed falls to a tenth once
# somebody else needs a core; without any, a third is lost when nobody does (docs/engines.md has the figures).
_ENVIRONMENT: Final = {"GOMP_SPINCOUNT": "300"}
_CLOSE: Final = {"Connection": "close"}
log = structlog.get_logger(__name__)
# llama.cpp's words for an input that fits no batch; it calls that a server error.
_TOO_LONG = "is too large to process"


class LlamaCppReplica(ChildReplica):
    """One child process with one model."""

    cache_habit = CacheHabit.SLOT_AFFINITY

    def __init__(
        self, name: str, config: LlamaCppEngineConfig, client: EngineClient, *, models_dir: Path, log_dir: Path
    ) -> None:
        self.name = name
        self.limits = ReplicaLimits(
            concurrency=config.slots,
            endpoints=config.narrow(_EMBEDDING if config.embeddings else _GENERATING),
            context_tokens=config.context_tokens or None,
            first_concurrency=config.slots,
            exclusive=config.exclusive,
            puts_live_first=not config.embeddings,
            pictures=TAKEN_PICTURES if config.projector else frozenset(),
            gives_way=None if config.embeddings else self._gives_way,
        )
        self._config = config
        self._models_dir = models_dir
        self._abilities = Abilities(sees=bool(config.projector))
        self._is_streamed = True
        """Until a stream tells something that is not known how to gather."""
        self._alias = name_alias(config.model)
        super().__init__(
            ChildServer(
                *(name, client, log_dir / f"{name}.log", self._prepare),
                kind=config.kind,
                model=self._alias,
                slots=config.slots,
            )
        )

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,  # noqa: ARG002 - a plain answer comes whole
        attachment: MediaFile | None = None,  # noqa: ARG002 - none of its endpoints takes one
    ) -> Reply:
        """Send one request and wait for its reply; llama.cpp does not tell when the first token came."""
        if endpoint not in self.limits.endpoints:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        exchange, plan = self._open(endpoint, body)
        if isinstance(exchange, Refused):
            return exchange
        if isinstance(plan, Refused):
            return plan
        if plan is None:
            return await self._call(endpoint, exchange.body)
        return exchange.close(await self._carry_out(plan, exchange.endpoint))

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Send a request that somebody waits for, and hand on its answer as it comes."""
        if endpoint not in self.limits.endpoints:
            return answer_reply(refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404))
        live = open_live("llamacpp", endpoint, body, translate=translate, abilities=self._abilities)
        if isinstance(live, Refused):
            return answer_reply(live)
        exchange = live.exchange
        if endpoint in _EMBEDDING:
            return answer_reply(await self._call(endpoint, exchange.body))
        plan = plan_calls(exchange.body, sees=self._abilities.sees)
        if isinstance(plan, Refused):
            return answer_reply(plan)
        if not live.stream_body or len(plan.bodies) > 1:
            return live.close(await self._carry_out(plan, exchange.endpoint))
        # Its server ends the connection after a stream and does not say so before.
        answer = await self._server.forward(exchange.endpoint, live.stream_body, _CLOSE)
        if plan.model is None or plan.model == self._alias:
            return answer
        return RenamingAnswer(answer, *name_member(self._alias, plan.model))

    def _gives_way(self, endpoint: str, body: bytes) -> bool:
        """Whether such a request is asked for as a stream: of others the slot is taken until they are computed."""
        _, plan = self._open(endpoint, body)
        return isinstance(plan, Plan) and plan.is_streamed and self._is_streamed

    def _open(self, endpoint: str, body: bytes) -> tuple[Exchange | Refused, Plan | Refused | None]:
        """What is to be sent, and in which calls; None: as it is, because nothing is generated."""
        exchange = open_exchange("llamacpp", endpoint, body, translate=translate, abilities=self._abilities)
        if isinstance(exchange, Refused) or endpoint in _EMBEDDING:
            return exchange, None
        return exchange, plan_calls(exchange.body, sees=self._abilities.sees)

    async def _carry_out(self, plan: Plan, endpoint: str) -> Reply:
        answers = []
        reply: Reply
        # One after the other: a line takes one place in the engine, however many choices it wants.
        call = self._call_streamed if plan.is_streamed and self._is_streamed else self._call
        for body in plan.bodies:
            reply = await call(endpoint, body)
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

    async def _call_streamed(self, endpoint: str, body: bytes) -> Reply:
        """The whole answer, out of a stream: a call that is cancelled then frees its slot at once."""
        unlike: UnlikeWhole | None = None

        def gather(stream: bytes) -> bytes:
            nonlocal unlike
            try:
                return gather_stream(stream)
            except UnlikeWhole as error:
                unlike = error
                return b""

        reply = await self._server.gather(endpoint, ask_for_stream(endpoint, body), gather, _CLOSE)
        if unlike is None:
            return reply
        if unlike.is_lasting and self._is_streamed:
            self._is_streamed = False
            log.info("lines ask for whole answers: a stream cannot be gathered", engine=self.name, reason=str(unlike))
        return await self._call(endpoint, body)

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
        metadata = await asyncio.to_thread(_read_metadata, model)
        has_tools = "tools" in str(metadata.get("tokenizer.chat_template", ""))
        projector = await self._find_projector()
        self._abilities = Abilities(has_tools=has_tools, sees=bool(projector))
        settings = HostSettings(
            model=str(model),
            alias=self._alias,
            slots=self._config.slots,
            context_tokens=self._config.context_tokens or fit_context(metadata, self._config.slots),
            threads=self._config.threads,
            embeddings=self._config.embeddings,
            projector=projector,
        )
        # -P: what lies in the working directory must not be taken for a library.
        command = (sys.executable, "-P", "-m", "backfill.engines.llamacpp.host", msgspec.json.encode(settings).decode())
        return Launch(command=command, ready=Ready, environment=_ENVIRONMENT)

    async def _find_projector(self) -> str:
        """The file with which the model sees; empty if none is set."""
        if not self._config.projector:
            return ""
        path = Path(self._config.projector)
        metadata = await asyncio.to_thread(_read_metadata, path)
        if metadata.get("general.architecture") != "clip":
            message = f"The projector {path} of engine {self.name!r} is no GGUF file of a projector (mmproj)."
            raise EngineUnavailable(message)
        return str(path)


def _read_metadata(model: Path) -> Mapping[str, str | int | float]:
    try:
        return read_gguf_header(model).metadata
    except (OSError, ValueError):
        return {}  # llama.cpp will say what is wrong with the file
