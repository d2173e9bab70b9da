"""`python -m backfill` started from nothing, with the source of a release of its own."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

__all__ = ["PlainProcess"]


class PlainProcess:
    """As `PreparedProcess`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], source: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backfill", *arguments],
            env={**environment, "PYTHONPATH": str(source)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout: IO[bytes] = self._process.stdout
        self.stderr: IO[bytes] = self._process.stderr

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> int:
        """The exit code, negative for a signal; raises TimeoutError."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process is there to get it."""
        self._process.send_signal(number)
