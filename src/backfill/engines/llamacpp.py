"""The built-in engine: llama.cpp's own server in a child process that this one starts, watches and ends."""

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec
import structlog
from yarl import URL

from backfill.config import LlamaCppEngineConfig
from backfill.engines.client import EngineClient
from backfill.engines.gauges import parse_gauges
from backfill.engines.interpret import count_usage, refuse
from backfill.engines.llamacpp_messages import HostSettings, Ready
from backfill.engines.llamacpp_requests import Plan, merge_answers, name_model, plan_calls
from backfill.engines.models import ensure_model
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply
from backfill.engines.restarts import RestartPace
from backfill.errors import EngineUnavailable, ModelUnavailable

__all__ = ["LlamaCppReplica"]

_GENERATING: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_EMBEDDING: Final = frozenset({"/v1/embeddings"})
_LOADING_TIMEOUT_S = 600.0
_HEALTH_TIMEOUT_S = 10.0
_GAUGES_TIMEOUT_S = 2.0
_TERMINATE_TIMEOUT_S = 3.0
# llama.cpp's words for an input that fits no batch; it calls that a server error.
_TOO_LONG = "is too large to process"

log = structlog.get_logger(__name__)


class LlamaCppReplica:
    """One child process with one model."""

    cache_habit = CacheHabit.SLOT_AFFINITY

    def __init__(
        self, name: str, config: LlamaCppEngineConfig, client: EngineClient, *, models_dir: Path, log_dir: Path
    ) -> None:
        self.name = name
        self.limits = ReplicaLimits(
            concurrency=config.slots,
            endpoints=_EMBEDDING if config.embeddings else _GENERATING,
            context_tokens=config.context_tokens,
            first_concurrency=config.slots,
        )
        self._config = config
        self._client = client
        self._models_dir = models_dir
        self._log_path = log_dir / f"{name}.log"
        self._alias = Path(config.model).name.removesuffix(".gguf")
        self._pace = RestartPace()
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._url: URL | None = None
        self._urls: dict[str, URL] = {}

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None while the child is not up."""
        return None if self._url is None else str(self._url)

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return once the engine answers; at once if it does. Many tasks share one start.

        The first start fetches the model if it is not there. A start soon after the child ended waits its turn
        (`restarts`).

        Raises:
            EngineUnavailable: the model is not to be had, or the child did not come up; the message says why.

        """
        if self._url is not None:
            return
        starting = self._starting
        if starting is None:
            # A task of its own: it must outlive the caller that happened to be the first.
            self._starting = starting = asyncio.create_task(self._bring_up(), name=f"start {self.name}")
            starting.add_done_callback(self._forget_start)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if starting.cancelled() and not (task and task.cancelling()):
                message = f"Engine {self.name!r} was stopped while it started."
                raise EngineUnavailable(message) from None
            raise

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
        if self._url is None:
            return Gauges()
        try:
            _, text = await self._client.get(self._url / "metrics", {}, _GAUGES_TIMEOUT_S)
        except EngineUnavailable:
            return Gauges()
        return parse_gauges(text.decode(errors="replace"))

    async def stop(self) -> None:
        """End the child, politely for 3 s; safe to call twice, before and during a start."""
        starting, watching = self._starting, self._watching
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        process = self._forget_process()
        if process is not None:
            await _end(process)
        if watching is not None:
            await asyncio.wait([watching])

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
        url = self._urls.get(endpoint)
        if url is None:
            return Lost(LostReason.UNREACHABLE, f"Engine {self.name!r} is not running.")
        reply = await self._client.send(url, {}, body)
        if isinstance(reply, Lost) and _TOO_LONG in reply.message:
            return refuse(reply.message.partition(": ")[2])
        return reply

    def _forget_start(self, starting: asyncio.Task[None]) -> None:
        self._starting = None
        if not starting.cancelled():
            starting.exception()  # the callers have it; asyncio need not complain if they are gone

    async def _bring_up(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._pace.wait_s(loop.time()))
        try:
            model = await self._ensure_model()
            process, url = await self._spawn(model)
        except EngineUnavailable:
            self._pace.note_end(loop.time(), up_s=0.0)
            raise
        self._process = process
        self._url = url
        self._urls = {endpoint: url.joinpath(*endpoint.split("/")[1:]) for endpoint in self.limits.endpoints}
        self._watching = asyncio.create_task(self._watch(process, loop.time()), name=f"watch {self.name}")
        log.info("engine started", engine=self.name, model=self._alias, pid=process.pid, slots=self._config.slots)

    async def _ensure_model(self) -> Path:
        abandoned = threading.Event()

        noted = ""

        def note(stage: str, _done_bytes: int, total_bytes: int) -> None:
            nonlocal noted
            if abandoned.is_set():
                message = "The start was given up."
                raise ModelUnavailable(message)
            if stage != noted:
                noted = stage
                log.info("model not here yet", engine=self.name, now=stage, total_bytes=total_bytes or None)

        try:
            return await asyncio.to_thread(ensure_model, self._config.model, self._models_dir, note)
        except ModelUnavailable as error:
            raise EngineUnavailable(error.message) from None
        finally:
            abandoned.set()

    async def _spawn(self, model: Path) -> tuple[asyncio.subprocess.Process, URL]:
        process = await self._create_process(model)
        try:
            url = await self._await_ready(process)
            await self._await_health(url)
        except BaseException:
            await asyncio.shield(_end(process, terminate_timeout_s=0))
            raise
        return process, url

    async def _create_process(self, model: Path) -> asyncio.subprocess.Process:
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
        # How long OpenMP's threads spin before they sleep. By default so long that the speed falls to a tenth once
        # somebody else needs a core; without any, a third is lost when nobody does (docs/engines.md has the figures).
        environment = {"GOMP_SPINCOUNT": "300", **os.environ}
        try:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            if self._log_path.exists():
                self._log_path.replace(self._log_path.with_suffix(".previous.log"))
            with self._log_path.open("wb") as log_file:
                return await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log_file,
                    env=environment,
                    # Ctrl-C at the terminal is for us: we drain first, then end the child.
                    start_new_session=True,
                )
        except OSError as error:
            message = f"Engine {self.name!r} cannot be started: {error.strerror}."
            raise EngineUnavailable(message) from None

    async def _await_ready(self, process: asyncio.subprocess.Process) -> URL:
        assert process.stdout is not None  # noqa: S101 - created with a pipe
        try:
            async with asyncio.timeout(_LOADING_TIMEOUT_S):
                line = await process.stdout.readline()
                if not line:
                    code = await process.wait()
                    message = f"Engine {self.name!r} ended while it loaded ({_name_exit(code)}); see {self._log_path}."
                    raise EngineUnavailable(message)
        except TimeoutError:
            message = f"Engine {self.name!r} did not load within {_LOADING_TIMEOUT_S:g} s; see {self._log_path}."
            raise EngineUnavailable(message) from None
        ready = msgspec.json.decode(line, type=Ready)
        if ready.error:
            message = f"Engine {self.name!r} cannot load its model: {ready.error}; see {self._log_path}."
            raise EngineUnavailable(message)
        return URL(ready.url)

    async def _await_health(self, url: URL) -> None:
        status, _ = await self._client.get(url / "health", {}, _HEALTH_TIMEOUT_S)
        if status != 200:
            message = f"Engine {self.name!r} loaded, but says that it is not well (HTTP {status})."
            raise EngineUnavailable(message)

    async def _watch(self, process: asyncio.subprocess.Process, up_since: float) -> None:
        code = await process.wait()
        if self._process is not process:
            return  # we ended it
        self._forget_process()
        now = asyncio.get_running_loop().time()
        self._pace.note_end(now, up_s=now - up_since)
        log.warning("engine ended by itself", engine=self.name, exit=_name_exit(code), log_file=str(self._log_path))

    def _forget_process(self) -> asyncio.subprocess.Process | None:
        process, self._process, self._url, self._urls = self._process, None, None, {}
        return process


async def _end(process: asyncio.subprocess.Process, terminate_timeout_s: float = _TERMINATE_TIMEOUT_S) -> None:
    """SIGTERM, then SIGKILL, and take the exit status so that no zombie stays."""
    if process.returncode is None:
        try:
            process.terminate()
            async with asyncio.timeout(terminate_timeout_s):
                await process.wait()
        except ProcessLookupError:
            pass
        except TimeoutError:
            process.kill()
    await process.wait()


def _name_exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
