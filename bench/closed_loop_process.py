"""The closed-loop driver as a child process."""

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench.closed_loop import LoopRun, Ready, Task

__all__ = ["ClosedLoop", "EngineMissingError"]

_ROOT = Path(__file__).resolve().parent.parent
_STOP_TIMEOUT_S = 15


class EngineMissingError(Exception):
    """The engine cannot be had on this machine."""


class ClosedLoop:
    """Starts `bench.closed_loop` with an engine of its own; a context manager that ends both.

    The child ends with this process, however that ends.
    """

    def __init__(self, engine: str, target: object) -> None:
        self._command = [sys.executable, "-m", "bench.closed_loop", engine, str(target)]
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        """The engine's base URL without /v1."""

    def __enter__(self) -> Self:
        """Wait until the engine is up; raises EngineMissingError if it does not come up."""
        self._process = subprocess.Popen(self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ready = msgspec.json.decode(self._read() or b'{"error": "the driver ended; see above"}', type=Ready)
        if ready.error:
            self._end()
            raise EngineMissingError(ready.error)
        self.address = ready.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, path: Path, concurrency: int) -> LoopRun:
        """Send all requests of the input file with so many workers."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(Task(str(path), concurrency)) + b"\n")
        process.stdin.flush()
        line = self._read()
        if not line:
            message = "the driver ended in the middle of a run; its reason is on stderr"
            raise RuntimeError(message)
        return msgspec.json.decode(line, type=LoopRun)

    def _read(self) -> bytes:
        process = self._running()
        assert process.stdout is not None
        return process.stdout.readline()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "the driver is not running"
            raise RuntimeError(message)
        return self._process

    def _end(self) -> None:
        process, self._process = self._running(), None
        assert process.stdin is not None
        # With its stdin at an end it ends its engine and then itself.
        process.stdin.close()
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        with process:
            pass
