"""Several processes on one data directory: some answer HTTP, some work; each can be killed or frozen alone."""

import itertools
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.client import Client
from tests.support.release import ReleaseServer
from tests.support.server_process import BackfillServer

__all__ = ["Company"]

_POLL_S = 0.02
_TIMEOUT_S = 30.0


class Company:
    """A context manager. `url` names one of the processes that answer HTTP after the other, request by request."""

    def __init__(
        self, data_dir: Path, engine_url: str | Sequence[str], *, apis: int = 2, workers: int = 2, **settings: str
    ) -> None:
        """`engine_url`: of all workers, or one after the other."""
        self.data_dir = data_dir
        self._engine_urls = itertools.cycle([engine_url] if isinstance(engine_url, str) else engine_url)
        self._settings = settings = {"server__lease_s": "1.5"} | settings
        self.apis = [
            BackfillServer(self.find_folder(f"api-{number}"), server__role="api", **settings) for number in range(apis)
        ]
        self.workers = [
            BackfillServer(
                self.find_folder(f"worker-{number}"), next(self._engine_urls), server__role="work", **settings
            )
            for number in range(workers)
        ]
        self.client = Client(self)
        self._ends = ExitStack()
        self._turns = itertools.cycle(self.apis)

    @property
    def url(self) -> str:
        """Where the next request goes: to another process than the last one, of those that run."""
        return next(server for server in self._turns if server.is_running).url

    def __enter__(self) -> Self:
        for server in (*self.apis, *self.workers):
            self._ends.enter_context(server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def make_server(self, process: str, role: str, source: Path) -> BackfillServer:
        """One more, of another release; not started."""
        engine_url = next(self._engine_urls) if role == "work" else None
        return ReleaseServer(source, self.find_folder(process), engine_url, server__role=role, **self._settings)

    def find_folder(self, process: str) -> Path:
        """The data directory of a process: all have the same."""
        return self.data_dir

    def find_worker(self, batch_id: str) -> BackfillServer:
        """The one that has the turn on the batch."""
        query = "SELECT pid FROM batches JOIN workers ON workers.id = batches.holder WHERE batches.id = ?"
        ((pid,),) = self.run(query, batch_id)
        return next(worker for worker in self.workers if worker.is_running and worker.pid == pid)

    def find_workers(self, batch_id: str) -> list[BackfillServer]:
        """Those that have slices of a batch that was cut."""
        query = "SELECT DISTINCT pid FROM slices JOIN workers ON workers.id = slices.holder WHERE batch_id = ?"
        pids = {pid for (pid,) in self.run(query, batch_id)}
        return [worker for worker in self.workers if worker.is_running and worker.pid in pids]

    def find_told(self, worker: BackfillServer) -> dict[str, Any]:
        """What a worker told last of itself."""
        ((told,),) = self.run("SELECT told FROM workers WHERE pid = ?", worker.pid)
        found: dict[str, Any] = told if isinstance(told, dict) else json.loads(told)
        return found

    def run(self, statement: str, *values: object) -> list[Any]:
        """Carry out a statement on the rows that all processes share; what it gives."""
        with closing(sqlite3.connect(self.data_dir / "backfill.db", timeout=30)) as database, database:
            return database.execute(statement, values).fetchall()

    @staticmethod
    def wait_until(holds: Callable[[], object]) -> None:
        """Return once that is so; raises AssertionError if it does not come to it."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(_POLL_S)

    @classmethod
    def freeze(cls, server: BackfillServer) -> None:
        """Have it stand still, as a machine does that is out of memory; `thaw` lets it go on."""
        os.kill(server.pid, signal.SIGSTOP)
        cls.wait_until(lambda: server.is_frozen)

    def freeze_between_writes(self, server: BackfillServer) -> None:
        """As `freeze`, but not while it writes to SQLite: there it would hold up all others who write."""
        self.freeze(server)
        while not self._can_write():
            self.thaw(server)
            self.freeze(server)

    def _can_write(self) -> bool:
        with closing(sqlite3.connect(self.data_dir / "backfill.db", timeout=0.05, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            database.execute("ROLLBACK")
            return True

    @staticmethod
    def thaw(server: BackfillServer) -> None:
        """Let it go on."""
        os.kill(server.pid, signal.SIGCONT)
