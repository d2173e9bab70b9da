"""vLLM and SGLang, started and ended by Backfill, and called as any server at a URL."""

import importlib.metadata
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from yarl import URL

from backfill.batch import ENDPOINTS
from backfill.config import ExternalEngineConfig, ManagedEngineConfig
from backfill.engines.child.server import ChildServer, Launch
from backfill.engines.client import EngineClient
from backfill.engines.external import ExternalReplica
from backfill.engines.forwarding import NOT_SENT, ForwardedAnswer, answer_reply
from backfill.engines.interpret import refuse
from backfill.engines.managed.host import GRACE_S
from backfill.engines.replica import CacheHabit, Gauges, OnFirstToken, ReplicaLimits
from backfill.engines.reply import Lost, LostReason, Reply
from backfill.errors import EngineUnavailable
from backfill.media_file import MediaFile

__all__ = ["ManagedReplica", "name_served_model"]

_HOST: Final = "127.0.0.1"
_POLICY_OPTION: Final = "--scheduling-policy"
_KEY_OPTION: Final = "--api-key"
# Unlike arguments, which `ps` shows to all, nobody else can read it.
_VLLM_KEY_VARIABLE: Final = "VLLM_API_KEY"
# To fetch a model that not everybody may have, and the servers' own settings.
_SECRETS_KEPT: Final = ("HF_", "HUGGING_FACE_", "MODELSCOPE_", "VLLM_", "SGLANG_", "SGL_")
_TITLES: Final = {"vllm": "vLLM", "sglang": "SGLang"}


class ManagedReplica:
    """One server process, with whatever processes it starts itself."""

    cache_habit = CacheHabit.NONE

    def __init__(self, name: str, config: ManagedEngineConfig, client: EngineClient, *, log_dir: Path) -> None:
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
        self._config = config
        self._client = client
        self._caller: ExternalReplica | None = None
        self._key = ""
        self._server = ChildServer(
            *(name, client, log_dir / f"{name}.log", self._prepare), kind=config.kind, model=config.model
        )

    @property
    def address(self) -> str | None:
        """Base URL without /v1; None while the server is not up, and once a request could not reach it."""
        return self._caller.address if self._caller is not None and self._server.url is not None else None

    @property
    def pid(self) -> int | None:
        """The process id of the server's keeper (`managed.host`); None while there is none."""
        return self._server.pid

    async def start(self) -> None:
        """Return once the server is healthy; at once if it is. Many tasks share one start.

        Raises:
            EngineUnavailable: the program is not installed, or the server did not come up; the message says why.

        """
        await self._server.start()
        address = self._server.address
        if address is None:
            message = f"Engine {self.name!r} ended as soon as it was up."
            raise EngineUnavailable(message)
        if self._caller is None or self._caller.url != address or self._key != self._server.key:
            self._key = self._server.key
            endpoints = self._config.endpoints
            config = ExternalEngineConfig(url=address, api_key=SecretStr(self._key), endpoints=endpoints)
            self._caller = ExternalReplica(self.name, config, self._client)
        await self._caller.start()

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        """Send one request and wait for its reply."""
        if endpoint not in self.limits.endpoints:
            return refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404)
        if self._caller is None or self._server.url is None:
            return Lost(LostReason.UNREACHABLE, f"Engine {self.name!r} is not running.")
        return await self._caller.send(endpoint, body, on_first_token, attachment)

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Send a request that somebody waits for, and hand on its answer as it comes."""
        if endpoint not in self.limits.endpoints:
            return answer_reply(refuse(f"Engine {self.name!r} does not serve {endpoint}.", 404))
        if self._caller is None or self._server.url is None:
            raise EngineUnavailable(f"Engine {self.name!r} is not running.", code=NOT_SENT)
        return await self._caller.forward(endpoint, body)

    async def read_gauges(self) -> Gauges:
        """What `/metrics` says; all None while the server is not up."""
        return Gauges() if self._caller is None or self._server.url is None else await self._caller.read_gauges()

    async def stop(self) -> None:
        """End the server and its processes, politely for 20 s; safe to call twice, before and during a start."""
        await self._server.stop()

    async def _prepare(self) -> Launch:
        port = self._config.port or _find_free_port()
        # -P: what lies in the working directory must not be taken for a library.
        keeper = (sys.executable, "-P", "-m", "backfill.engines.managed.host")
        key = _find_own_key(self._config.arguments) or secrets.token_urlsafe(32)
        return Launch(
            command=(*keeper, *self._find_program(), *_list_arguments(self._config, port, key)),
            key=key,
            key_variable=_VLLM_KEY_VARIABLE,
            secrets_kept=_SECRETS_KEPT,
            url=URL.build(scheme="http", host=_HOST, port=port),
            start_timeout_s=self._config.start_timeout_s,
            end_timeout_s=2 * GRACE_S,
            abort_timeout_s=2 * GRACE_S,
        )

    def _find_program(self) -> tuple[str, ...]:
        """The command's words, the first with its whole path.

        Raises:
            EngineUnavailable: there is no such program.

        """
        kind = self._config.kind
        if not self._config.command and kind == "sglang":
            try:
                importlib.metadata.version("sglang")
            except importlib.metadata.PackageNotFoundError:
                raise self._not_installed("the package 'sglang'") from None
            return (sys.executable, "-m", "sglang.launch_server")
        program, *words = self._config.command or ("vllm", "serve")
        # Beside our own Python too: its folder is in PATH only where the environment was activated.
        places = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"
        found = shutil.which(program, path=places)
        if found is None:
            raise self._not_installed(f"the program {program!r}")
        return (found, *words)

    def _not_installed(self, what: str) -> EngineUnavailable:
        kind = self._config.kind
        message = (
            f"Engine {self.name!r} needs {_TITLES[kind]}, and {what} is not there: `pip install {kind}`, or set "
            f"engines.{self.name}.command to where it is."
        )
        return EngineUnavailable(message)


def name_served_model(config: ManagedEngineConfig) -> str:
    """What the server calls its model: the hub's id, or the last part of a path."""
    is_path = config.model.startswith(("/", "./", "../", "~"))
    return Path(config.model).name if is_path else config.model


def _find_own_key(arguments: Sequence[str]) -> str:
    """The key that the operator's own arguments give the server; empty if they give none."""
    given = ""
    for word, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, _, value = word.partition("=")
        if name == _KEY_OPTION:
            given = value or following
    return given


def _list_arguments(config: ManagedEngineConfig, port: int, key: str) -> list[str]:
    model = str(Path(config.model).expanduser()) if config.model.startswith("~") else config.model
    common = ["--host", _HOST, "--port", str(port), "--served-model-name", name_served_model(config)]
    if config.kind == "vllm":
        # Live requests go before lines, which carry a priority (`priority`); an operator's own policy holds.
        own_policy = any(word.partition("=")[0] == _POLICY_OPTION for word in config.arguments)
        policy = [] if own_policy else [_POLICY_OPTION, "priority"]
        return [model, *common, *policy, *config.arguments]
    # Without --enable-metrics SGLang has no /metrics, and it takes a key from nowhere but its command line.
    return ["--model-path", model, *common, "--enable-metrics", _KEY_OPTION, key, *config.arguments]


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
