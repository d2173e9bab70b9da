"""A client library in a process of its own, called line by line; what it raises comes back as a ClientError."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["ClientError", "ClientProcess", "clean_environment"]

_DRIVERS = Path(__file__).parents[1] / "drivers"
_END_TIMEOUT_S = 10
# Some clients act by who seems to run them; a proxy would be in the way.
_KEPT = ("PATH", "LANG", "TMPDIR")


class ClientError(Exception):
    """What the client told its user: the class of its error and the fields that it has."""

    def __init__(self, message: str, *, kind: str = "", status: int | None = None, **fields: Any) -> None:
        super().__init__(f"{kind} {status}: {message}")
        self.message = message
        self.kind = kind
        self.status = status
        self.fields = fields


class ClientProcess:
    """One of the drivers with the library it loads; a context manager."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._command = command
        self._environment = environment
        self._folder = folder

    @classmethod
    def for_python(cls, programs: Path, module: str, environment: Mapping[str, str]) -> Self:
        """A library in the virtual environment whose programs are there."""
        command = [str(programs / "python"), str(_DRIVERS / "python_driver.py"), module]
        return cls(command, environment, programs.parent)

    @classmethod
    def for_command(cls, programs: Path, name: str, environment: Mapping[str, str], folder: Path) -> Self:
        """A command line in the virtual environment whose programs are there; it works in `folder`."""
        return cls([str(programs / "python"), str(_DRIVERS / "command_driver.py"), name], environment, folder)

    @classmethod
    def for_node(cls, program: str, folder: Path, package: str, *flags: str, environment: Mapping[str, str]) -> Self:
        """An npm package that is installed in `folder`, run by `program`."""
        return cls([program, str(_DRIVERS / "node_driver.mjs"), package, *flags], environment, folder)

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, env=self._environment, cwd=self._folder, stdin=pipe, stdout=pipe, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It ends when its stdin does.
        try:
            self._process.communicate(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def call(self, method: str, **request: Any) -> Any:
        """What the client's method returns, as JSON has it; raises ClientError with what it raises."""
        answer = self._ask({"method": method, **request})
        if "error" in answer:
            raise ClientError(**answer["error"])
        return answer["result"]

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
        """What a command line prints; raises ClientError if it ends with another code than 0."""
        done = self._ask({"arguments": arguments, "environment": environment})
        if done["code"]:
            raise ClientError(done["out"] + done["err"], kind=f"exit code {done['code']}")
        return str(done["out"])

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client's process ended; its reason is on stderr"
        return json.loads(line)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a client: nothing of this machine's user, no telemetry, no look for a newer version."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    offline = {"TOGETHER_TELEMETRY_DISABLED": "1", "TOGETHER_DISABLE_VERSION_CHECK": "1", "NO_COLOR": "1"}
    return kept | offline | {"HOME": str(home)} | more
