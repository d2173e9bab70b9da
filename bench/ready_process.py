"""A child process that says where it answers, in one JSON line, once it does."""

import json
import select
import subprocess
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["ReadyProcess"]

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 30


class ReadyProcess(ABC):
    """A context manager that starts the process and ends it; it can be started again after a `kill`."""

    url = ""
    """Where it answers."""
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the process and wait until it says that it answers; raises RuntimeError if it does not."""
        self._process = self._spawn()
        try:
            self.url = self._read_url()
        except BaseException:
            # A start that is broken off leaves nothing behind.
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End the process politely, or after a while by force; nothing happens if it is gone already."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap()

    def kill(self) -> None:
        """End the process with SIGKILL, and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    @abstractmethod
    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process with its standard output in a pipe."""

    def _read_url(self) -> str:
        said = json.loads(self._read_line())
        if "url" not in said:
            message = f"the process did not come up; it said {said}"
            raise RuntimeError(message)
        return str(said["url"])

    def _read_line(self) -> bytes:
        stdout = self._running().stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], _START_TIMEOUT_S)
        line = stdout.readline() if readable else b""
        if not line:
            message = f"the process did not come up; {self._tell_log()}"
            raise RuntimeError(message)
        return line

    def _tell_log(self) -> str:
        """Where its reason stands, or the reason itself."""
        return "its reason is on stderr"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "the process is not running"
            raise RuntimeError(message)
        return self._process

    def _reap(self) -> None:
        process, self._process = self._running(), None
        with process:  # closes the pipes and waits
            pass
