"""`python -m backfill` in a process of its own whose libraries are loaded already, for tests that start hundreds.

Each is forked from a process that does nothing else, which costs a twentieth of a start from nothing. What a start
does after it has loaded its libraries, it does in the new process.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

__all__ = ["CLOCK_OFFSET", "PreparedProcess"]

CLOCK_OFFSET = "TEST_CLOCK_OFFSET_S"
"""The variable that says by how many seconds the clock of a process is wrong."""

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([__name__, "backfill.cli.main", "backfill.cli.run", "backfill.cli.serve"])


@dataclass(frozen=True)
class _Start:
    """What a child inherits of its parent where it is not forked from another."""

    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    umask: int
    stdin: Connection | None
    stdout: Connection
    stderr: Connection


class PreparedProcess:
    """A running command, in the working directory of this process unless a `folder` is given.

    Its outputs are pipes, to be read until they end; without `stdin` it reads nothing.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        stdin: bytes | None = None,
    ) -> None:
        with ExitStack() as ends:
            out, out_end = map(ends.enter_context, _FORKING.Pipe(duplex=False))
            err, err_end = map(ends.enter_context, _FORKING.Pipe(duplex=False))
            in_end = in_ = None
            if stdin is not None:
                in_end, in_ = map(ends.enter_context, _FORKING.Pipe(duplex=False))
            start = _Start(
                list(arguments), dict(environment), folder or Path.cwd(), _read_umask(), in_end, out_end, err_end
            )
            self._process = _FORKING.Process(target=_run, args=(start,), daemon=True)
            self._process.start()
            self.stdout = _open(out)
            self.stderr = _open(err)
            if in_ is not None and in_end is not None:
                # Or nobody would notice that the process is gone.
                in_end.close()
                _write(in_, stdin or b"")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    def wait(self, timeout_s: float) -> int:
        """The exit code, negative for a signal; raises TimeoutError."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process is there to get it."""
        # Its end may not have come through yet.
        with suppress(ProcessLookupError):
            if self.is_running:
                os.kill(self.pid, number)


def _shift_clock(offset_s: float) -> None:
    """Have the time of day be another one for this process, as on a machine whose clock nobody sets."""
    if offset_s:
        time_s, time_ns = time.time, time.time_ns
        time.time = lambda: time_s() + offset_s
        time.time_ns = lambda: time_ns() + int(offset_s * 1e9)


def _read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _open(end: Connection) -> IO[bytes]:
    return os.fdopen(os.dup(end.fileno()), "rb")


def _write(end: Connection, data: bytes) -> None:
    with os.fdopen(os.dup(end.fileno()), "wb") as stream:
        end.close()
        stream.write(data)


def _run(start: _Start) -> None:
    for descriptor, end in enumerate((start.stdin, start.stdout, start.stderr)):
        if end is not None:
            os.dup2(end.fileno(), descriptor)
            end.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    os.environ.clear()
    os.environ.update(start.environment)
    os.chdir(start.folder)
    os.umask(start.umask)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _shift_clock(float(start.environment.get(CLOCK_OFFSET, "0")))
    # The only module that looks at a variable when it is loaded.
    importlib.reload(sys.modules["backfill.store.faults"])
    sys.argv = ["backfill", *start.arguments]
    from backfill.cli import main  # noqa: PLC0415 - in the process that this one is forked from, it is not needed

    main()
