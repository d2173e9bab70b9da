"""A worker's process on its node, kept alive by an actor until it is told to end. Knows nothing of Ray."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

__all__ = ["WorkerProcess", "make_command"]

_PAUSE_S = 1.0
_PAUSE_MAX_S = 60.0
# One that ran for so long did not fail at its start.
_LONG_S = 60.0


class WorkerProcess:
    """Starts the command, and starts it again whenever it ends by itself, ever more slowly."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._has_ended = threading.Event()
        self._trouble = ""
        # The kernel ends the child when the thread that started it ends: this one stays as long as it does.
        threading.Thread(target=self._keep, name="keep the worker", daemon=True).start()

    def tell(self) -> dict[str, str | int]:
        """How it is now, in the words of `Placed`."""
        phase = "ended" if self._has_ended.is_set() else "draining" if self._stopping.is_set() else "up"
        process = self._process
        if phase == "up" and process is None:
            phase = "starting"
        return {
            "phase": phase,
            "host": socket.gethostname(),
            "pid": process.pid if process is not None else 0,
            "trouble": "" if process is not None else self._trouble,
        }

    def drain(self) -> None:
        """Have it give its turns back and end; returns at once, and may be called again."""
        self._stopping.set()
        with self._changing:
            if self._process is not None:
                self._process.terminate()

    def _keep(self) -> None:
        pause_s = _PAUSE_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            code = self._run()
            if time.monotonic() - began_s > _LONG_S:
                pause_s = _PAUSE_S
            self._trouble = f"the worker's process ended by itself (exit code {code}); its node's log of Ray says why"
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        self._has_ended.set()

    def _run(self) -> int | str:
        try:
            with self._changing:
                if self._stopping.is_set():
                    return 0
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    self._command, stdin=subprocess.DEVNULL, env=self._environment
                )
        except OSError as error:
            return str(error.strerror)
        code = self._process.wait()
        with self._changing:
            self._process = None
        return code


def make_command(parent_pid: int, engine: str, config_file: str) -> list[str]:
    """The very same worker that `backfill serve --role work` is, with one engine."""
    command = [sys.executable, "-P", "-m", "backfill.scaler.attached", str(parent_pid)]
    command += ["serve", "--role", "work", "--engine", engine, "--json"]
    return [*command, "--config", config_file] if config_file else command
