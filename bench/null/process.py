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
from typing import Any, TypedDict, cast

from bench.ready_process import ReadyProcess

__all__ = ["NullEngine", "Stats"]

_ROOT = Path(__file__).resolve().parents[2]
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


class NullEngine(ReadyProcess):
    """Starts `bench.null.engine` and talks to it; a context manager.

    The child ends with this process, however that ends. With `port`, an engine that was killed can come back at its
    old address.
    """

    def __init__(
        self, *, port: int = 0, delay_ms: float = 0, log_path: Path | None = None, **behaviour: object
    ) -> None:
        self._command = [sys.executable, "-m", "bench.null.engine", "--exit-with-parent"]
        self._command += ["--port", str(port), "--delay-ms", str(delay_ms), "--behave", json.dumps(behaviour)]
        if log_path is not None:
            self._command += ["--log", str(log_path.absolute())]

    @property
    def port(self) -> int:
        """Where the engine listens."""
        return int(self.url.rpartition(":")[2])

    def behave(self, **changes: object) -> None:
        """Change how requests are treated (`bench.null.engine.Behaviour`); raises ValueError if it is refused."""
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

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        try:
            with _OPENER.open(self.url + path, data=body, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(json.load(error)["error"]["message"]) from None
