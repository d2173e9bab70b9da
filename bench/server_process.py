"""A real `backfill serve` as a child process, and the few requests that the measurements make of it."""

import json
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["BackfillServer", "Engines", "name_null_engine"]

Engines = Mapping[str, Mapping[str, object]]
"""Name of an engine -> its settings, as in the configuration."""

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 30
_REQUEST_TIMEOUT_S = 60
_FINAL = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
# The server is on this machine: a proxy from the environment would only be in the way.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def name_null_engine(url: str, concurrency: int) -> Engines:
    """The setting of one null engine that gets so many requests at once at most."""
    return {"null": {"url": url, "concurrency": concurrency}}


class BackfillServer:
    """Starts a server on a data directory with its engines; a context manager that ends it.

    Started again after a `kill`, it works on the same data directory, at another port.
    """

    def __init__(self, data_dir: Path, engines: Engines) -> None:
        self.data_dir = data_dir
        self._log_path = data_dir.with_name(f"{data_dir.name}.log")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
        for name, settings in engines.items():
            for key, value in settings.items():
                # The value in JSON is TOML too: these are numbers, text and lists.
                self._environment[f"BACKFILL_ENGINES__{name}__{key}".upper()] = json.dumps(value)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    def start(self) -> Self:
        """Start the server and wait until it says that it answers."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "backfill", "serve", "--json", "--port", "0"]
        command += ["--data-dir", str(self.data_dir)]
        with self._log_path.open("ab") as log:
            # In the data directory lies no backfill.toml that could change what is measured.
            self._process = subprocess.Popen(
                command, cwd=self.data_dir, env=self._environment, stdout=subprocess.PIPE, stderr=log
            )
        self.url = json.loads(self._read_ready_line())["url"]
        return self

    def stop(self) -> None:
        """End the server politely, or after a while by force; nothing happens if it is gone already."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap()

    def kill(self) -> None:
        """End the server with SIGKILL, and wait for it."""
        self._running().kill()
        self._reap()

    def create_batch(self, file_id: str) -> str:
        """Create a batch of chat completions; its id."""
        answer = self._ask_json(
            "/v1/batches", {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        )
        return str(answer["job"]["id"])

    def wait_for_end(self, batch_id: str, timeout_s: float, poll_s: float, poll_most_s: float = 0.0) -> dict[str, Any]:
        """Poll every `poll_s` until the batch is COMPLETED; raises RuntimeError if it ends otherwise, or not in time.

        Up to `poll_most_s` it waits for half of the time that the progress so far lets expect: for batches with steady
        progress, of which many polls would take their share.
        """
        started = time.monotonic()
        while (batch := self._ask_json(f"/v1/batches/{batch_id}"))["status"] not in _FINAL:
            elapsed_s = time.monotonic() - started
            if elapsed_s > timeout_s:
                message = f"the batch has not ended in {timeout_s} s: {batch}\n{self._tell_log()}"
                raise RuntimeError(message)
            left_s = elapsed_s * (100.0 - batch["progress"]) / batch["progress"] if batch["progress"] else 0.0
            time.sleep(max(poll_s, min(poll_most_s, left_s / 2)))
        if batch["status"] != "COMPLETED":
            message = f"the batch ended otherwise: {batch}"
            raise RuntimeError(message)
        return batch

    def download(self, file_id: str | None) -> bytes:
        """The content of a file; nothing for no file."""
        return self._ask(f"/v1/files/{file_id}/content") if file_id else b""

    def _ask_json(self, path: str, body: object = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask(path, body))
        return answer

    def _ask(self, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with _OPENER.open(request, timeout=_REQUEST_TIMEOUT_S) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                message = f"{path} answered {error.code}: {error.read().decode(errors='replace')}"
            raise RuntimeError(message) from None

    def _read_ready_line(self) -> bytes:
        stdout = self._running().stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], _START_TIMEOUT_S)
        line = stdout.readline() if readable else b""
        if not line:
            self._running().kill()
            self._reap()
            message = f"the server did not come up\n{self._tell_log()}"
            raise RuntimeError(message)
        return line

    def _tell_log(self) -> str:
        return self._log_path.read_text(errors="replace")[-2000:]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "the server is not running"
            raise RuntimeError(message)
        return self._process

    def _reap(self) -> None:
        process, self._process = self._running(), None
        with process:  # closes the pipe and waits
            pass
