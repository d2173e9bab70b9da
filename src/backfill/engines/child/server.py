"""A child process that runs an engine and answers by HTTP: started, watched and ended, whichever engine it is."""

import asyncio
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
from yarl import URL

from backfill.batch import ENDPOINTS
from backfill.engines.child.restarts import RestartPace
from backfill.engines.child.shared_start import SharedStart
from backfill.engines.client import EngineClient
from backfill.engines.environment import choose_environment
from backfill.engines.forwarding import NOT_SENT, StreamedAnswer, WholeAnswer
from backfill.engines.gauges import parse_gauges
from backfill.engines.host_process import KEY_VARIABLE
from backfill.engines.models.catalogue import ensure_model
from backfill.engines.replica import Gauges, OnFirstToken
from backfill.engines.reply import Lost, LostReason, Reply
from backfill.errors import EngineUnavailable, ModelUnavailable
from backfill.media_file import MediaFile
from backfill.store import create_private, make_folder

__all__ = ["NOT_LOADED", "ChildServer", "Launch", "ReadyLine", "ensure_model_file"]

NOT_LOADED: Final = "engine_not_loaded"
"""The code of an EngineUnavailable that says: the process ran, but the model did not load in it."""

_HEALTH_TIMEOUT_S = 10.0
_HEALTH_POLL_S = 0.25
_GAUGES_TIMEOUT_S = 2.0
_END_TIMEOUT_S = 2.0

log = structlog.get_logger(__name__)


class ReadyLine(Protocol):
    """What a child says in its one line on stdout: where it answers, or why it will not."""

    @property
    def url(self) -> str:
        """Base URL without /v1."""

    @property
    def error(self) -> str:
        """Why the model cannot be loaded; empty if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a child, and how to know that it is ready: by its line, or by its answers at `url`."""

    command: tuple[str, ...]
    ready: type[ReadyLine] | None = None
    """Shape of the line on stdout, as JSON; None: there is none, and `/health` is asked until it says 200."""
    url: URL | None = None
    """Where a child without a ready line will answer."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the child finds where our own environment does not say otherwise."""
    secrets_kept: tuple[str, ...] = ()
    """How the names of variables begin that it gets although they look like secrets."""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """What every request to the child must bring as a bearer token; another one at each start."""
    key_variable: str = KEY_VARIABLE
    """Where the child finds it in its environment."""
    start_timeout_s: float = 600.0
    end_timeout_s: float = 3.0
    """Between SIGTERM and SIGKILL at a stop."""
    abort_timeout_s: float = 0.0
    """The same, where the start is given up."""


class ChildServer:
    """One child at a time, on a local port. Its log is at `log_path`, that of the one before at `….previous.log`."""

    def __init__(
        self, name: str, client: EngineClient, log_path: Path, prepare: Callable[[], Awaitable[Launch]], **facts: object
    ) -> None:
        """Start nothing yet. `prepare` is awaited at each start; `facts` stand in the log beside the engine's name."""
        self.name = name
        self.url: URL | None = None
        """Base URL without /v1; None while the child is not up."""
        self.key = ""
        """What requests to it must bring; the child refuses all others."""
        self._client = client
        self._log_path = log_path
        self._prepare = prepare
        self._facts = facts
        self._pace = RestartPace()
        self._starting = SharedStart(name, self._bring_up)
        self._watching: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._end_timeout_s = 0.0
        self._urls: dict[str, URL] = {}
        self._headers: dict[str, str] = {}

    @property
    def address(self) -> str | None:
        """The base URL as text; None while the child is not up."""
        return None if self.url is None else str(self.url)

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return once the child answers; at once if it does. Many tasks share one start.

        A start soon after the child ended waits its turn (`restarts`).

        Raises:
            EngineUnavailable: `prepare` raised it, or the child did not come up (code `NOT_LOADED`).

        """
        if self.url is None:
            await self._starting.join()

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_headers: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """POST to one of `ENDPOINTS`; lost as never sent while the child is not up."""
        url = self._urls.get(endpoint)
        if url is None:
            return self._not_running()
        sent = {**self._headers, **headers} if headers else self._headers
        process, watching = self._process, self._watching
        reply = await self._client.send(url, endpoint, sent, body, on_headers, attachment)
        return await self._explain(reply, process, watching)

    async def gather(
        self, endpoint: str, body: bytes, gather: Callable[[bytes], bytes], headers: Mapping[str, str]
    ) -> Reply:
        """The same for a request whose answer is a stream, of which `gather` makes a whole one."""
        url = self._urls.get(endpoint)
        if url is None:
            return self._not_running()
        process, watching = self._process, self._watching
        reply = await self._client.send(url, endpoint, {**self._headers, **headers}, body, gather=gather)
        return await self._explain(reply, process, watching)

    async def forward(
        self, endpoint: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> StreamedAnswer | WholeAnswer:
        """POST and hand on the answer as it comes; raises EngineUnavailable if there is none."""
        url = self._urls.get(endpoint)
        if url is None:
            raise EngineUnavailable(f"Engine {self.name!r} is not running.", code=NOT_SENT)
        return await self._client.forward(url, {**self._headers, **(headers or {})}, body)

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None while the child is not up."""
        if self.url is None:
            return Gauges()
        try:
            _, text = await self._client.get(self.url / "metrics", self._headers, _GAUGES_TIMEOUT_S)
        except EngineUnavailable:
            return Gauges()
        return parse_gauges(text.decode(errors="replace"))

    async def stop(self) -> None:
        """End the child, politely at first; safe to call twice, before and during a start."""
        await self._starting.cancel()
        watching = self._watching
        process = self._forget_process()
        if process is not None:
            await _end(process, self._end_timeout_s)
        if watching is not None:
            await asyncio.wait([watching])

    async def _bring_up(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._pace.wait_s(loop.time()))
        try:
            launch = await self._prepare()
            process, url = await self._spawn(launch)
        except EngineUnavailable:
            self._pace.note_end(loop.time(), up_s=0.0)
            raise
        self._process = process
        self._end_timeout_s = launch.end_timeout_s
        self.url = url
        self._urls = {endpoint: url.joinpath(*endpoint.split("/")[1:]) for endpoint in ENDPOINTS}
        self._watching = asyncio.create_task(self._watch(process, loop.time()), name=f"watch {self.name}")
        log.info("engine started", engine=self.name, pid=process.pid, **self._facts)

    async def _spawn(self, launch: Launch) -> tuple[asyncio.subprocess.Process, URL]:
        self.key = launch.key
        self._headers = {"Authorization": f"Bearer {launch.key}"}
        process = await self._create_process(launch)
        try:
            async with asyncio.timeout(launch.start_timeout_s):
                url = await self._await_ready(process, launch)
        except TimeoutError:
            await _end(process, launch.abort_timeout_s)
            message = f"Engine {self.name!r} did not load within {launch.start_timeout_s:g} s; see {self._log_path}."
            raise EngineUnavailable(message, code=NOT_LOADED) from None
        except BaseException:
            await asyncio.shield(_end(process, launch.abort_timeout_s))
            raise
        return process, url

    async def _create_process(self, launch: Launch) -> asyncio.subprocess.Process:
        try:
            make_folder(self._log_path.parent)
            if self._log_path.exists():
                self._log_path.replace(self._log_path.with_suffix(".previous.log"))
            create_private(self._log_path)
            with self._log_path.open("wb") as log_file:
                return await asyncio.create_subprocess_exec(
                    *launch.command,
                    # A child watches this end: it closes with us, however we end.
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log_file if launch.ready is None else asyncio.subprocess.PIPE,
                    stderr=log_file,
                    env=_make_environment(launch),
                    # Ctrl-C at the terminal is for us: we drain first, then end the child.
                    start_new_session=True,
                )
        except OSError as error:
            message = f"Engine {self.name!r} cannot be started: {error.strerror}."
            raise EngineUnavailable(message) from None

    async def _await_ready(self, process: asyncio.subprocess.Process, launch: Launch) -> URL:
        if launch.ready is not None:
            return await self._await_line(process, launch.ready)
        assert launch.url is not None  # noqa: S101 - a launch has one or the other
        ended = asyncio.create_task(process.wait())
        try:
            while not await self._is_healthy(launch.url):
                await asyncio.wait([ended], timeout=_HEALTH_POLL_S)
                if ended.done():
                    raise self._ended_early(ended.result())
        finally:
            ended.cancel()
        return launch.url

    async def _await_line(self, process: asyncio.subprocess.Process, kind: type[ReadyLine]) -> URL:
        assert process.stdout is not None  # noqa: S101 - created with a pipe
        try:
            line = await process.stdout.readline()
            if not line:
                raise self._ended_early(await process.wait())
            ready = msgspec.json.decode(line, type=kind)
        except ValueError:  # no such JSON, or a line without an end
            message = f"Engine {self.name!r} does not say where it answers; see {self._log_path}."
            raise EngineUnavailable(message, code=NOT_LOADED) from None
        if ready.error:
            message = f"Engine {self.name!r} cannot load its model: {ready.error.rstrip('.')}; see {self._log_path}."
            raise EngineUnavailable(message, code=NOT_LOADED)
        url = URL(ready.url)
        status, _ = await self._client.get(url / "health", self._headers, _HEALTH_TIMEOUT_S)
        if status != 200:
            message = f"Engine {self.name!r} loaded, but says that it is not well (HTTP {status})."
            raise EngineUnavailable(message)
        return url

    async def _explain(
        self, reply: Reply, process: asyncio.subprocess.Process | None, watching: "asyncio.Task[None] | None"
    ) -> Reply:
        """The reply, which says so if there is none because the child that had the request ended."""
        if not isinstance(reply, Lost) or reply.reason is not LostReason.DISCONNECTED:
            return reply
        if process is None or watching is None:
            return reply
        # Its sockets are closed a moment before it is known to be gone, and another one can be started.
        await asyncio.wait([watching], timeout=_END_TIMEOUT_S)
        if process.returncode is None:
            return reply
        message = f"Engine {self.name!r} ended while it had the request ({_name_exit(process.returncode)})."
        return Lost(LostReason.DISCONNECTED, message, engine_ended=True)

    def _not_running(self) -> Lost:
        return Lost(LostReason.UNREACHABLE, f"Engine {self.name!r} is not running.")

    def _ended_early(self, code: int) -> EngineUnavailable:
        message = f"Engine {self.name!r} ended while it loaded ({_name_exit(code)}); see {self._log_path}."
        return EngineUnavailable(message, code=NOT_LOADED)

    async def _is_healthy(self, url: URL) -> bool:
        try:
            status, _ = await self._client.get(url / "health", self._headers, _HEALTH_TIMEOUT_S)
        except EngineUnavailable:
            return False
        return status == 200

    async def _watch(self, process: asyncio.subprocess.Process, up_since: float) -> None:
        code = await process.wait()
        if self._process is not process:
            return  # we ended it
        self._forget_process()
        now = asyncio.get_running_loop().time()
        self._pace.note_end(now, up_s=now - up_since)
        log.warning("engine ended by itself", engine=self.name, exit=_name_exit(code), log_file=str(self._log_path))

    def _forget_process(self) -> asyncio.subprocess.Process | None:
        process, self._process, self.url, self._urls = self._process, None, None, {}
        return process


def _make_environment(launch: Launch) -> dict[str, str]:
    inherited = choose_environment(os.environ, launch.secrets_kept)
    return {**launch.environment, **inherited, launch.key_variable: launch.key}


async def ensure_model_file(engine: str, model: str, models_dir: Path) -> Path:
    """The model's file, fetched if need be; what goes on is logged, and a cancel ends the fetching.

    Raises:
        EngineUnavailable: the model is not to be had; the message says why.

    """
    abandoned = threading.Event()
    noted = ""

    def note(stage: str, _done_bytes: int, total_bytes: int) -> None:
        nonlocal noted
        if abandoned.is_set():
            message = "The start was given up."
            raise ModelUnavailable(message)
        if stage != noted:
            noted = stage
            log.info("model not here yet", engine=engine, now=stage, total_bytes=total_bytes or None)

    try:
        return await asyncio.to_thread(ensure_model, model, models_dir, note)
    except ModelUnavailable as error:
        raise EngineUnavailable(error.message) from None
    finally:
        abandoned.set()


async def _end(process: asyncio.subprocess.Process, terminate_timeout_s: float) -> None:
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
