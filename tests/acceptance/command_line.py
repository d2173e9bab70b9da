"""`backfill ...` as a process of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["CommandLine", "backfill"]

NO_VARIABLES: Mapping[str, str] = {}
_TIMEOUT_S = 60.0


class CommandLine:
    """A running command; a context manager that leaves no process behind. Its output is read while it runs."""

    def __init__(
        self, *arguments: object, folder: Path, stdin: bytes | None = None, variables: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        command = [sys.executable, "-m", "backfill", *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | dict(variables),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._out: list[str] = []
        self._err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [self._read(self._process.stdout, self._out), self._read(self._process.stderr, self._err)]
        if self._process.stdin is not None:
            self._process.stdin.write(stdin or b"")
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
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
                assert self._process.poll() is None, f"it ended first: {self.out}{self.err}"
                assert self._changed.wait(deadline - time.monotonic()), f"it never came to that: {self.out}{self.err}"

    def wait_for_answers(self, count: int) -> None:
        """Return once so many answers are in the journal; for commands with --json."""
        self.wait_for(lambda it: any(event.get("answered", 0) >= count for event in it.events))

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def _read(self, stream: IO[bytes] | None, lines: list[str]) -> threading.Thread:
        assert stream is not None

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
    *arguments: object, folder: Path, stdin: bytes | None = None, variables: Mapping[str, str] = NO_VARIABLES
) -> tuple[int, str, str]:
    """Run a command to its end: exit code, standard output, standard error."""
    with CommandLine(*arguments, folder=folder, stdin=stdin, variables=variables) as command:
        code = command.wait()
        return code, command.out, command.err
