"""`backfill ...` as a process of its own, as a user starts it, or forked from one that has its libraries loaded."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.support.prepared_process import PreparedProcess

__all__ = ["CommandLine", "backfill"]

NO_VARIABLES: Mapping[str, str] = {}
_TIMEOUT_S = 60.0


class _FreshProcess:
    """As a `PreparedProcess`, from nothing."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, folder: Path, stdin: bytes | None
    ) -> None:
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "backfill", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout, self.stderr = process.stdout, process.stderr
        if process.stdin is not None:
            process.stdin.write(stdin or b"")
            process.stdin.close()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)


class CommandLine:
    """A running command; a context manager that leaves no process behind. Its output is read while it runs.

    `fresh`: it starts from nothing, as it does for a user; others have what they load loaded already.
    """

    def __init__(
        self,
        *arguments: object,
        folder: Path,
        stdin: bytes | None = None,
        variables: Mapping[str, str] = NO_VARIABLES,
        fresh: bool = False,
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
        kind = _FreshProcess if fresh else PreparedProcess
        command = [str(argument) for argument in arguments]
        self._process = kind(command, environment | dict(variables), folder=folder, stdin=stdin)
        self._out: list[str] = []
        self._err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [self._read(self._process.stdout, self._out), self._read(self._process.stderr, self._err)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_running:
            self._process.send_signal(signal.SIGKILL)
        self.wait()

    @property
    def out(self) -> str:
        """Standard output so far."""
        return "".join(self._out)

    @property
    def err(self) -> str:
        """Standard error so far."""
        return "".join(self._err)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Standard output so far, as JSON lines."""
        return [json.loads(line) for line in self._out]

    def wait(self) -> int:
        """The exit code."""
        code = self._process.wait(_TIMEOUT_S)
        for reader in self._readers:
            reader.join(_TIMEOUT_S)
        return code

    def wait_for(self, is_there: Callable[[Self], bool]) -> None:
        """Return once the output so far meets `is_there`; raises AssertionError if it never does."""
        deadline = time.monotonic() + _TIMEOUT_S
        with self._changed:
            while not is_there(self):
                assert self._process.is_running, f"it ended first: {self.out}{self.err}"
                assert self._changed.wait(deadline - time.monotonic()), f"it never came to that: {self.out}{self.err}"

    def wait_for_answers(self, count: int) -> None:
        """Return once so many answers are in the journal; for commands with --json."""
        self.wait_for(lambda it: any(event.get("answered", 0) >= count for event in it.events))

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def _read(self, stream: IO[bytes], lines: list[str]) -> threading.Thread:
        def read() -> None:
            with stream:
                for line in stream:
                    with self._changed:
                        lines.append(line.decode())
                        self._changed.notify_all()
            with self._changed:
                self._changed.notify_all()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread


def backfill(
    *arguments: object,
    folder: Path,
    stdin: bytes | None = None,
    variables: Mapping[str, str] = NO_VARIABLES,
    fresh: bool = False,
) -> tuple[int, str, str]:
    """Run a command to its end: exit code, standard output, standard error."""
    with CommandLine(*arguments, folder=folder, stdin=stdin, variables=variables, fresh=fresh) as command:
        code = command.wait()
        return code, command.out, command.err
