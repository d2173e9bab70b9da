"""The null engine as a child process, for tests and benches."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, cast

__all__ = ["NullEngine", "Stats"]

_ROOT = Path(__file__).resolve().parent.parent
_POLL_S = 0.005
# The engine is on this machine: a proxy from the environment would only be in the way.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Stats(TypedDict):
    """What /stats of the null engine says; times are seconds since the epoch."""

    received: int
    answered: int
    dropped: int
    in_flight: int
    peak_in_flight: int
    first_received_at: float | None
    last_answered_at: float | None


class NullEngine:
    """Starts `bench.null_engine` and talks to it; a context manager.

    The child ends with this process, however that ends. With `port`, an engine that was killed can come back at its
    old address.
    """

    def __init__(
        self, *, port: int = 0, delay_ms: float = 0, log_path: Path | None = None, **behaviour: object
    ) -> None:
        self._command = [sys.executable, "-m", "bench.null_engine", "--exit-with-parent"]
        self._command += ["--port", str(port), "--delay-ms", str(delay_ms), "--behave", json.dumps(behaviour)]
        if log_path is not None:
            self._command += ["--log", str(log_path.absolute())]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Where the engine listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._running().pid

    def start(self) -> Self:
        """Start the child and wait until it listens."""
        self._process = subprocess.Popen(self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            message = "the null engine ended before it listened; its reason is on stderr"
            raise RuntimeError(message)
        self.url = json.loads(line)["url"]
        return self

    def stop(self) -> None:
        """End the child, and wait for it; nothing happens if it is gone already."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap()

    def kill(self) -> None:
        """End the child with SIGKILL, and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def behave(self, **changes: object) -> None:
        """Change how requests are treated (`bench.null_engine.Behaviour`); raises ValueError if it is refused."""
        self._ask("/behave", json.dumps(changes).encode())

    def stats(self) -> Stats:
        """The counts so far."""
        return cast("Stats", self._ask("/stats"))

    def log(self) -> list[tuple[str, str, int]]:
        """Every event in order: `received`, `answered` or `dropped`, the marker, and monotonic nanoseconds."""
        return [(event, marker, at_ns) for event, marker, at_ns in self._ask("/log")]

    def markers(self, event: str = "received") -> list[str]:
        """The markers of the requests to which `event` happened, in order."""
        return [marker for happened, marker, _ in self.log() if happened == event]

    def wait_for(self, predicate: Callable[[Stats], bool], timeout_s: float = 10) -> Stats:
        """The first counts that meet `predicate`; raises TimeoutError if none do.

        Blocks: in a test whose own event loop has to go on, await `wait_for_async`.
        """
        deadline = time.monotonic() + timeout_s
        while not predicate(stats := self.stats()):
            if time.monotonic() > deadline:
                message = f"the null engine did not come to that in {timeout_s} s: {stats}"
                raise TimeoutError(message)
            time.sleep(_POLL_S)
        return stats

    async def wait_for_async(self, predicate: Callable[[Stats], bool], timeout_s: float = 10) -> Stats:
        """As `wait_for`, while the event loop goes on."""
        return await asyncio.to_thread(self.wait_for, predicate, timeout_s)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "the null engine is not running"
            raise RuntimeError(message)
        return self._process

    def _reap(self) -> None:
        process, self._process = self._running(), None
        with process:  # closes the pipes and waits
            pass

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        try:
            with _OPENER.open(self.url + path, data=body, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(json.load(error)["error"]["message"]) from None
