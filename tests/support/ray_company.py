"""Processes that answer HTTP and scalers, beside workers on a Ray cluster: any of them can be killed."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.scale.ray_nodes import RayNodes
from tests.support.company import Company
from tests.support.machines import RemoteStore
from tests.support.server_process import BackfillServer

__all__ = ["SECRET", "RayCompany"]

SECRET = "hush-5f0c1d"
"""Stands in the settings, and nowhere else."""

_POLL_S = 0.05
_TIMEOUT_S = 60.0
_CONFIG = """
data_dir = "{data_dir}"
[server]
lease_s = 1.5
[dispatch]
backoff_s = 0.01
backoff_max_s = 0.05
cancel_grace_s = 5
lines_per_turn = 60
[ray]
address = "{address}"
config_file = "{config_file}"
idle_s = {idle_s}
clear_s = 0.5
start_s = 1
"""
_ENGINE = """
[engines.null]
url = "{engine_url}"
api_key = "{secret}"
concurrency = {concurrency}
place = "ray"
replicas = {{ min = {least}, max = {most} }}
"""


class RayCompany(Company):
    """A context manager; its actors are gone when it ends. All processes read one file of settings."""

    def __init__(  # noqa: PLR0913 - what a test sets
        self,
        folder: Path,
        engine_url: str,
        nodes: RayNodes,
        *,
        least: int = 0,
        most: int = 2,
        scalers: int = 1,
        concurrency: int = 8,
        idle_s: float = 1.0,
        engines: str = "",
        store: RemoteStore | None = None,
    ) -> None:
        """`engines`: tables of the settings, instead of one null engine with the other settings.

        `store`: where rows and files lie; without it all share a data directory. Nodes need its settings in theirs.
        """
        self.store = store
        data_dir, config_file = folder / "data", folder / "backfill.toml"
        common = _CONFIG.format(data_dir=data_dir, address=nodes.address, config_file=config_file, idle_s=idle_s)
        own = {"engine_url": engine_url, "secret": SECRET, "concurrency": concurrency, "least": least, "most": most}
        config_file.write_text(common + (engines or _ENGINE.format(**own)))
        settings = {"config": str(config_file)} | (store.settings if store is not None else {})
        super().__init__(data_dir, engine_url, apis=1, workers=0, **settings)
        self.scalers = [
            BackfillServer(self.find_folder(f"scaler-{number}"), server__role="scale", **settings)
            for number in range(scalers)
        ]
        self._started = ExitStack()

    def __enter__(self) -> Self:
        for server in (*self.apis, *self.scalers):
            self._started.enter_context(server)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                # They are detached: nothing but a scaler ends them.
                self.wait_for_workers(0)
        finally:
            pids = self.worker_pids
            self._started.close()
            for pid in pids:
                self.kill_actor(pid)

    def find_folder(self, process: str) -> Path:
        return self.data_dir if self.store is None else self.data_dir / process

    def run(self, statement: str, *values: object) -> list[Any]:
        return super().run(statement, *values) if self.store is None else self.store.run(statement, *values)

    @property
    def worker_pids(self) -> list[int]:
        """The processes of workers that have told of themselves of late."""
        since_ms = round((time.time() - 1.0) * 1000)
        rows = self.run("SELECT pid FROM workers WHERE role = 'work' AND seen_at_ms > ?", since_ms)
        return sorted(pid for (pid,) in rows if psutil.pid_exists(pid))

    def wait_for_workers(self, count: int) -> list[int]:
        """Their process ids, once there are so many."""
        self.wait_long(lambda: len(self.worker_pids) == count)
        return self.worker_pids

    def wait_for_turn(self) -> int:
        """The process id of a worker that has a batch or a slice of one, once there is one."""
        found: list[Any] = []
        query = "SELECT pid FROM workers WHERE id IN (SELECT holder FROM batches UNION SELECT holder FROM slices)"

        def look() -> object:
            found[:] = self.run(query)
            return found

        self.wait_long(look)
        return int(found[0][0])

    @staticmethod
    def wait_long(holds: Callable[[], object]) -> None:
        """Return once that is so; what Ray does takes seconds."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(_POLL_S)

    @staticmethod
    def kill_actor(worker_pid: int) -> None:
        """SIGKILL for the actor's own process, whose child the worker is."""
        if psutil.pid_exists(worker_pid):
            os.kill(psutil.Process(worker_pid).ppid(), signal.SIGKILL)

    def finish(self, batch_ids: list[str], lines: int) -> None:
        """Wait for the batches: each has all of its lines in the output, once."""
        client = self.client
        for batch_id in batch_ids:
            batch = client.wait_for_end(batch_id)
            assert batch["status"] == "COMPLETED"
            assert batch["error_file_id"] is None
            assert len(client.download(batch["output_file_id"])) == lines
