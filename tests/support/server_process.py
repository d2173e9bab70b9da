"""`backfill serve` as a process of its own, to be killed."""

import json
import os
import signal
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.plain_process import PlainProcess
from tests.support.prepared_process import CLOCK_OFFSET, PreparedProcess

__all__ = ["BackfillServer"]

_READY_TIMEOUT_S = 30.0


class BackfillServer:
    """A context manager; the same object can be started again on the same data directory.

    `settings` are environment variables without their prefix: `server__port="0"`.
    """

    def __init__(self, data_dir: Path, engine_url: str | None = None, **settings: str) -> None:
        self.data_dir = data_dir
        self.url = ""
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
        self._environment |= {
            "BACKFILL_DISPATCH__BACKOFF_S": "0.01",
            "BACKFILL_DISPATCH__BACKOFF_MAX_S": "0.05",
            "BACKFILL_DISPATCH__CANCEL_GRACE_S": "1",
        }
        if engine_url is not None:
            self._environment["BACKFILL_ENGINES__NULL__URL"] = engine_url
            self._environment["BACKFILL_ENGINES__NULL__CONCURRENCY"] = "8"
        self._environment |= {f"BACKFILL_{name.upper()}": value for name, value in settings.items()}
        self._process: PreparedProcess | PlainProcess | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def shift_clock(self, offset_s: float) -> None:
        """From its next start on its clock differs by so much from those of others."""
        self._environment[CLOCK_OFFSET] = str(offset_s)

    def start(self, *, fault: str = "", expect_ready: bool = True) -> Self:
        """Start the process and wait until it answers; with `fault`, a point at which it dies (`store.faults`).

        Without `expect_ready` the process may die before it answers.
        """
        command = ["serve", "--port", "0", "--json", "--data-dir", str(self.data_dir)]
        environment = self._environment | ({"BACKFILL_FAULT": fault} if fault else {})
        process = self._process = self._spawn(command, environment)
        watchdog = threading.Timer(_READY_TIMEOUT_S, process.send_signal, [signal.SIGKILL])
        watchdog.start()
        try:
            line = process.stdout.readline()
        finally:
            watchdog.cancel()
        # Its log must not fill the pipe; it is kept for the message of a test that fails.
        self.log: list[str] = []
        self._draining = threading.Thread(target=self._drain, args=(process,), daemon=True)
        self._draining.start()
        self.said = line.decode()
        event = json.loads(line) if line else {}
        if event.get("event") == "ready":
            self.url = event["url"]
        elif expect_ready:
            process.wait(_READY_TIMEOUT_S)
            message = f"the server ended before it answered: {event} {self.log}"
            raise RuntimeError(message)
        return self

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and its exit code; 0 if it was not running."""
        return self._end(signal.SIGTERM)

    def wait_for_death(self, timeout_s: float = 60.0) -> int:
        """The exit code of a process that ends by itself, negative for a signal."""
        assert self._process is not None, "the server was not started"
        code = self._process.wait(timeout_s)
        self._draining.join(timeout_s)
        self._close()
        return code

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.is_running

    @property
    def is_frozen(self) -> bool:
        """Whether the process stands still."""
        status = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        return status.rpartition(")")[2].split()[0] == "T"

    def _spawn(self, command: list[str], environment: dict[str, str]) -> PreparedProcess | PlainProcess:
        return PreparedProcess(command, environment)

    def _end(self, number: signal.Signals) -> int:
        process = self._process
        if process is None:
            return 0
        process.send_signal(number)
        try:
            code = process.wait(30)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            raise
        self._close()
        return code

    def _close(self) -> None:
        if self._process is not None:
            self._process.stdout.close()
        self._process = None

    def _drain(self, process: PreparedProcess | PlainProcess) -> None:
        with process.stderr:
            for line in process.stderr:
                self.log.append(line.decode(errors="replace"))
