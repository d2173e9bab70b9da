"""A real `backfill serve` as a child process, and the few requests that the measurements make of it."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.ready_process import ReadyProcess

__all__ = ["BackfillServer", "Engines", "name_null_engine"]

Engines = Mapping[str, Mapping[str, object]]
"""Name of an engine -> its settings, as in the configuration."""

_REQUEST_TIMEOUT_S = 60
_FINAL = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
# The server is on this machine: a proxy from the environment would only be in the way.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def name_null_engine(url: str, concurrency: int) -> Engines:
    """The setting of one null engine that gets so many requests at once at most."""
    return {"null": {"url": url, "concurrency": concurrency}}


class BackfillServer(ReadyProcess):
    """Starts a server on a data directory with its engines; a context manager that ends it.

    Started again after a `kill`, it works on the same data directory, at another port.
    """

    def __init__(self, data_dir: Path, engines: Engines, settings: Mapping[str, str] | None = None) -> None:
        """`settings`: others, as dotted keys with two underscores for each dot."""
        self.data_dir = data_dir
        self._log_path = data_dir.with_name(f"{data_dir.name}.log")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILL_")}
        for name, engine in engines.items():
            for key, value in engine.items():
                # The value in JSON is TOML too: these are numbers, text and lists.
                self._environment[f"BACKFILL_ENGINES__{name}__{key}".upper()] = json.dumps(value)

        self._environment |= {f"BACKFILL_{name}".upper(): value for name, value in (settings or {}).items()}

    def create_batch(self, file_id: str, endpoint: str = "/v1/chat/completions") -> str:
        """Create a batch for the endpoint; its id."""
        answer = self._ask_json(
            "/v1/batches", {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
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

    def read_batch(self, batch_id: str) -> dict[str, Any]:
        """The batch object now."""
        return self._ask_json(f"/v1/batches/{batch_id}")

    def read_metrics(self) -> str:
        """What `/metrics` says now."""
        return self._ask("/metrics").decode()

    def read_usage(self, by: str) -> dict[str, Any]:
        """What was used in the last month, by this word."""
        return self._ask_json(f"/v1/usage?by={by}&limit=10000")

    def cancel_batch(self, batch_id: str) -> None:
        """Have it end with what it has."""
        self._ask_json(f"/v1/batches/{batch_id}/cancel", {})

    def read_engine(self, name: str) -> dict[str, Any]:
        """What the server knows of this engine now."""
        engines = self._ask_json("/v1/engines")["data"]
        found: dict[str, Any] = next(engine for engine in engines if engine["name"] == name)
        return found

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

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "backfill", "serve", "--json", "--port", "0"]
        command += ["--data-dir", str(self.data_dir)]
        with self._log_path.open("ab") as log:
            # In the data directory lies no backfill.toml that could change what is measured.
            return subprocess.Popen(
                command, cwd=self.data_dir, env=self._environment, stdout=subprocess.PIPE, stderr=log
            )

    def _tell_log(self) -> str:
        return self._log_path.read_text(errors="replace")[-2000:]
