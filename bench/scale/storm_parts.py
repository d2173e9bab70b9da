"""What is killed in a storm, and comes back after a moment, as a machine's supervisor would start it again."""

import functools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bench.findings import tell
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from bench.server_process import BackfillServer

__all__ = ["Part", "Supervisor", "list_parts"]

_AWAY_S = (0.2, 3.0)
_BACK_TIMEOUT_S = 180.0
_TRY_AGAIN_S = 0.5


@dataclass
class Part:
    """Something that can be killed and started again; started, it answers."""

    kind: str
    name: str
    kill: Callable[[], None]
    """With SIGKILL."""
    start: Callable[[], object]
    runs: Callable[[], bool]
    """Whether its process is there."""
    is_there: Callable[[], bool] = lambda: True
    """Whether there is one now; for what comes and goes as it is needed."""
    may_end: bool = False
    """Whether it ends by itself at times, as raylets do that their head has lost sight of."""
    is_up: bool = True
    """Nobody has killed it, or it came back."""


def list_parts(
    servers: Mapping[str, Sequence[BackfillServer]], rows: PostgresServer, objects: ObjectServer
) -> list[Part]:
    """All that a storm may hit beside Ray; `servers`: by what they are."""
    return [
        *(
            Part(kind, f"{kind} {number}", server.kill, server.start, functools.partial(_runs, server))
            for kind, those in servers.items()
            for number, server in enumerate(those)
        ),
        Part("PostgreSQL", "PostgreSQL", lambda: rows.stop(signal.SIGKILL), rows.start, lambda: True),
        Part("object store", "object store", objects.kill, objects.start, lambda: True),
    ]


def _runs(server: BackfillServer) -> bool:
    return server.is_running


class Supervisor:
    """Kills parts and sees that all that is not there comes back; `close` waits until everything is."""

    def __init__(self, parts: Sequence[Part], dice: random.Random) -> None:
        self._parts = parts
        self._dice = dice
        self._threads = ThreadPoolExecutor(len(parts))
        self._returns: list[Future[None]] = []
        self._stopped = threading.Event()
        self.ended: Counter[str] = Counter()
        """Part -> how often it ended without being killed."""
        self.killed: Counter[str] = Counter()
        """Kind -> how often one of it was killed."""

    @property
    def broken(self) -> list[str]:
        """Those that must never end by themselves, and did."""
        return [part.name for part in self._parts if self.ended[part.name] and not part.may_end]

    def strike(self) -> None:
        """Kill one of the parts that are up, of any kind as likely; wait if none is."""
        while not (up := [part for part in self._parts if part.is_up and part.is_there()]):
            time.sleep(_TRY_AGAIN_S)
        kind = self._dice.choice(sorted({part.kind for part in up}))
        part = self._dice.choice([part for part in up if part.kind == kind])
        away_s = self._dice.uniform(*_AWAY_S)
        part.is_up = False
        part.kill()
        self.killed[kind] += 1
        tell(f"  killed: {part.name}, away for {away_s:.1f} s")
        self._returns.append(self._threads.submit(self._bring_back, part, away_s))

    def look(self) -> None:
        """Start again what ended by itself, and note it; raises RuntimeError if a part does not come back."""
        for each in self._returns:
            if each.done():
                each.result()
        for part in self._parts:
            if part.is_up and not part.runs():
                self.ended[part.name] += 1
                tell(f"  ended by itself: {part.name}")
                part.is_up = False
                self._returns.append(self._threads.submit(self._bring_back, part, 0.0))

    def close(self) -> None:
        """Raises RuntimeError if a part does not come back."""
        self._threads.shutdown()
        for each in self._returns:
            each.result()

    def _bring_back(self, part: Part, away_s: float) -> None:
        deadline_s = time.monotonic() + _BACK_TIMEOUT_S
        self._stopped.wait(away_s)
        while True:
            try:
                part.start()
            except (RuntimeError, AssertionError) as error:
                # What it needs may be away itself: then it says so and ends, and its supervisor tries again.
                if time.monotonic() > deadline_s:
                    message = f"{part.name} does not come back: {error}"
                    raise RuntimeError(message) from error
                self._stopped.wait(_TRY_AGAIN_S)
            else:
                part.is_up = True
                return
