"""Which clients are tested, in which version and on what; the rows of docs/clients.md."""

import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.clients.environments import make_node_environment, make_python_environment
from tests.conformance.clients.openai import OpenAIClient, OpenAINode, OpenAIPython
from tests.conformance.clients.process import ClientProcess, clean_environment
from tests.conformance.clients.together import (
    CommandLine,
    Curl,
    TogetherClient,
    TogetherNode,
    TogetherOne,
    TogetherTwo,
)

__all__ = ["OPENAI_CLIENTS", "TOGETHER_CLIENTS", "TOGETHER_ONE_COMMAND", "ClientEntry", "Openings", "each_of"]

TEST_TIMEOUT_S = 300
_BUN = "@oven/bun-linux-x64@1.4.5"


@dataclass(frozen=True)
class ClientEntry:
    """One client in one version on one runtime."""

    client: str
    version: str
    runtime: str
    root: str = "/v1"
    """What its base URL has behind the host."""
    slow: bool = False
    """Whether only `make test-all` runs it: the newer version of the same client shows nearly the same."""

    def __str__(self) -> str:
        return "-".join(re.findall(r"[\w.]+", f"{self.client} {self.version} {self.runtime}"))

    @property
    def major(self) -> int:
        """The first number of the version."""
        return int(self.version.split(".")[0])


def each_of(entries: Iterable[ClientEntry]) -> pytest.MarkDecorator:
    """Run the test with each of them, one after the other, so that each client's process is started once."""
    # The first test of a client has to wait for its environment too.
    timeout = pytest.mark.timeout(TEST_TIMEOUT_S)
    slow = {True: (pytest.mark.slow,), False: ()}
    params = [pytest.param(entry, id=str(entry), marks=(timeout, *slow[entry.slow])) for entry in entries]
    return pytest.mark.parametrize("entry", params, scope="module")


def _python(version: str, *, slow: bool = False) -> list[ClientEntry]:
    root = "" if version.startswith("3") else "/v1"
    return [ClientEntry("together (PyPI)", version, f"Python, {kind}", root, slow) for kind in ("sync", "async")]


TOGETHER_CLIENTS = [
    *_python("1.5.35"),
    *_python("2.0.0", slow=True),
    *_python("2.42.0"),
    *_python("3.1.1"),
    ClientEntry("tg", "2.42.0", "command line", slow=True),
    ClientEntry("tg", "3.1.1", "command line", ""),
    ClientEntry("together-ai (npm)", "0.33.0", "Node, FormData upload", slow=True),
    ClientEntry("together-ai (npm)", "0.33.0", "Node, duplex shim", slow=True),
    ClientEntry("together-ai (npm)", "0.52.0", "Node, FormData upload"),
    ClientEntry("together-ai (npm)", "0.52.0", "Node, duplex shim"),
    ClientEntry("together-ai (npm)", "0.52.0", "Bun"),
    ClientEntry("curl", "any", "command line"),
]
TOGETHER_ONE_COMMAND = ClientEntry("together", "1.5.35", "command line")
OPENAI_CLIENTS = [
    ClientEntry("openai (PyPI)", "3.54.0", "Python, sync"),
    ClientEntry("openai (PyPI)", "3.54.0", "Python, async"),
    ClientEntry("openai (npm)", "7.57.0", "Node"),
]


class Openings(ExitStack):
    """Opens clients against one server; their processes are shared, and end with this."""

    def __init__(self, server_url: str, api_key: str, home: Path) -> None:
        super().__init__()
        self._url = server_url
        self._api_key = api_key
        self._home = home
        self._processes: dict[tuple[str, ...], ClientProcess] = {}

    def open_together(self, entry: ClientEntry, *, api_key: str = "", root: str | None = None) -> TogetherClient:
        """The client as a user sets it up: by the environment, but for what is given here."""
        options = {"api_key": api_key} if api_key else {}
        url = self._url + (entry.root if root is None else root)
        if root is not None:
            options["base_url"] = url
        match entry.client:
            case "together (PyPI)":
                class_name = "Together" if entry.runtime.endswith(" sync") else "AsyncTogether"
                process = self._run_python("together", entry)
                if entry.major == 1:
                    return TogetherOne(process, class_name, **options)
                return TogetherTwo(process, class_name, can_check=entry.version != "2.0.0", **options)
            case "together-ai (npm)":
                process = self._run_node("together-ai", entry)
                by_form = entry.runtime == "Node, FormData upload"
                return TogetherNode(process, by_form=by_form, **({"apiKey": api_key} if api_key else {}))
            case "tg" | "together":
                return self.open_command(entry, api_key=api_key, url=url)
            case _:
                if shutil.which("curl") is None:
                    pytest.skip("curl is not installed")
                return Curl(url, api_key or self._api_key)

    def open_command(self, entry: ClientEntry, *, api_key: str = "", url: str = "") -> CommandLine:
        """A command line of Together's."""
        environment = self._environment(entry) | {"TOGETHER_BASE_URL": url or self._url + entry.root}
        environment["TOGETHER_API_KEY"] = api_key or self._api_key
        return CommandLine(self._run_command(entry), environment)

    def open_openai(self, entry: ClientEntry, *, api_key: str = "", root: str | None = None) -> OpenAIClient:
        """The same for OpenAI's clients."""
        base_url = None if root is None else self._url + root
        if entry.runtime == "Node":
            given = {"apiKey": api_key, "baseURL": base_url}
            return OpenAINode(self._run_node("openai", entry), {name: one for name, one in given.items() if one})
        given = {"api_key": api_key, "base_url": base_url}
        class_name = "OpenAI" if entry.runtime.endswith(" sync") else "AsyncOpenAI"
        options = {name: one for name, one in given.items() if one}
        return OpenAIPython(self._run_python("openai", entry), class_name, options)

    def run_plain_node(self, entry: ClientEntry) -> TogetherNode:
        """`together-ai` with its own upload on Node, without a shim."""
        return TogetherNode(self._run_node("together-ai", entry), by_form=False)

    def call_python(self, entry: ClientEntry, class_name: str, method: str, **arguments: Any) -> Any:
        """A method of Python `together`, as it is."""
        process = self._run_python("together", entry)
        return process.call(method, **{"class": class_name, "arguments": arguments})

    def collect_python(self, entry: ClientEntry, class_name: str, method: str) -> list[Any]:
        """What iterating over the result of such a method gives."""
        found: list[Any] = self._run_python("together", entry).call(method, **{"class": class_name, "collect": True})
        return found

    def call_node(self, entry: ClientEntry, method: str, *arguments: Any) -> Any:
        """A method of npm `together-ai`, as it is."""
        return self._run_node("together-ai", entry).call(method, options={}, arguments=arguments)

    def _run_python(self, module: str, entry: ClientEntry) -> ClientProcess:
        key = (module, entry.version)
        if key not in self._processes:
            programs = make_python_environment("-".join(key))
            process = ClientProcess.for_python(programs, module, self._environment(entry))
            self._processes[key] = self.enter_context(process)
        return self._processes[key]

    def _run_command(self, entry: ClientEntry) -> ClientProcess:
        key = ("command line", entry.client, entry.version)
        if key not in self._processes:
            programs = make_python_environment(f"together-{entry.version}")
            process = ClientProcess.for_command(programs, entry.client, self._environment(entry), self._home)
            self._processes[key] = self.enter_context(process)
        return self._processes[key]

    def _run_node(self, package: str, entry: ClientEntry) -> ClientProcess:
        key = (package, entry.version, entry.runtime)
        if key not in self._processes:
            folder = make_node_environment(f"{package}@{entry.version}")
            program = _find_bun() if entry.runtime == "Bun" else _find_node()
            flags = ("--duplex-half",) if entry.runtime == "Node, duplex shim" else ()
            environment = self._environment(entry)
            process = ClientProcess.for_node(program, folder, package, *flags, environment=environment)
            self._processes[key] = self.enter_context(process)
        return self._processes[key]

    def _environment(self, entry: ClientEntry) -> dict[str, str]:
        """What docs/clients.md tells a user to set."""
        url = self._url + entry.root
        variables = {"OPENAI_API_KEY": self._api_key, "OPENAI_BASE_URL": url}
        variables |= {"TOGETHER_API_KEY": self._api_key, "TOGETHER_BASE_URL": url, "TOGETHER_API_BASE_URL": url}
        return clean_environment(self._home, **variables)


@cache
def _find_node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"Node {version.strip()} is too old: 20 is needed")
    return node


def _find_bun() -> str:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the package with Bun is for Linux on x86-64")
    return str(make_node_environment(_BUN) / "node_modules" / "@oven" / "bun-linux-x64" / "bin" / "bun")
