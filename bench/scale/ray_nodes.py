"""A Ray cluster of one's own on this machine: a head and further nodes, each ended by its process id.

The head's state is in RocksDB, so that a head that was killed comes back with what it knew. Nodes have addresses of
their own on the loopback device: Ray takes 127.0.0.1 for the machine's external address.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

__all__ = ["RayNode", "RayNodes", "find_ray"]

_READY_TIMEOUT_S = 90.0
_POLL_S = 0.1
_STORE_BYTES = 80_000_000
# What Ray calls the process of an actor of the scaler's.
_ACTOR = "ray::RayWorker"


def find_ray() -> Path | None:
    """The program `ray` beside this Python; None if it is not installed."""
    program = Path(sys.executable).parent / "ray"
    return program if program.is_file() else None


class RayNode:
    """One `ray start --block`: its raylet, and on the head the GCS."""

    def __init__(
        self,
        address: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log_path: Path,
        mark: Path | None = None,
    ) -> None:
        """`mark`: a file in which a head notes where it is."""
        self.address = address
        self._mark = mark
        self._arguments = arguments
        self._environment = environment
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once its raylet is there."""
        program = find_ray()
        assert program is not None, "Ray is not installed: pip install -r requirements/dev.txt"
        if self._mark is not None:
            # With it Ray takes the raylets of other nodes on this machine for a head that runs.
            self._mark.unlink(missing_ok=True)
        command = [str(program), "start", "--block", f"--node-ip-address={self.address}", *self._arguments]
        with self._log_path.open("ab") as log:
            # What it said at an earlier start says nothing of this one.
            begun_bytes = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self._environment),
                # Of a node that is killed every process is found by its group.
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while b"Ray runtime started" not in self._log_path.read_bytes()[begun_bytes:]:
            assert self._process.poll() is None, f"Ray ended: {self._log_path.read_text(errors='replace')[-3000:]}"
            assert time.monotonic() < deadline, f"Ray is not up: {self._log_path}"
            time.sleep(_POLL_S)

    @property
    def processes(self) -> list[psutil.Process]:
        """All of its processes; none once it was killed."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL for all that belongs to Ray on it, as if the machine's power were cut. Nothing if it does not run."""
        processes = self.processes
        # First the one that would tell the others to end in order.
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=30)
        if self._process is not None:
            self._process.wait(30)
            self._process = None

    @property
    def actors(self) -> list[psutil.Process]:
        """The processes of its actors."""
        return [process for process in self.processes if _read_command(process).startswith(_ACTOR)]

    @property
    def has_raylet(self) -> bool:
        """Whether its raylet runs."""
        return bool(self._find_raylets())

    def kill_raylet(self) -> None:
        """SIGKILL for the raylet alone; the rest of the node ends by itself. Nothing if it does not run."""
        for raylet in self._find_raylets():
            with suppress(psutil.NoSuchProcess):
                raylet.send_signal(signal.SIGKILL)

    def restart(self) -> None:
        """What is left of it ends, and it is started again."""
        self.kill()
        self.start()

    def _find_raylets(self) -> list[psutil.Process]:
        return [process for process in self.processes if _read_command(process).partition(" ")[0].endswith("/raylet")]


class RayNodes:
    """A context manager: the head on 127.0.0.2, and nodes on 127.0.0.3 and so on."""

    def __init__(
        self,
        *,
        nodes: int = 1,
        places: int = 4,
        head_places: int = 0,
        settings: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """`places`: CPUs that a node has to offer. `settings`: for each node, what stands in its environment besides.

        Actors, and the workers that they keep, have the environment of their node.
        """
        # Short, for the names of sockets lie in it.
        folder = self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.port = _find_port()
        self.environment = _choose_environment(folder)
        common = [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats", "--log-style=record"]
        ports = ["--min-worker-port=0", "--max-worker-port=0"]
        head = [
            "--head",
            f"--port={self.port}",
            f"--num-cpus={head_places}",
            f"--temp-dir={folder / 'ray'}",
            "--include-dashboard=false",
        ]
        mark = folder / "ray" / "ray_current_cluster"
        self.head = RayNode("127.0.0.2", [*head, *common, *ports], self.environment, folder / "head.log", mark)
        self.nodes = [
            RayNode(
                f"127.0.0.{number + 3}",
                [f"--address={self.address}", f"--num-cpus={places}", *common, *ports],
                self.environment | dict(settings[number] if settings else {}),
                folder / f"node-{number}.log",
            )
            for number in range(nodes)
        ]

    def find_kept(self, text: str) -> list[str]:
        """The files of logs and state in which the text stands."""
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        return [str(path.relative_to(self._folder)) for path in files if text.encode() in path.read_bytes()]

    def kill(self) -> None:
        """SIGKILL for all that belongs to Ray on all of them."""
        for node in (*self.nodes, self.head):
            node.kill()

    def start(self) -> None:
        """The head first."""
        for node in (self.head, *self.nodes):
            node.start()

    def forget(self) -> None:
        """Remove what a killed head has kept: what is started after that is another cluster at the same address."""
        shutil.rmtree(self._folder / "gcs")

    @property
    def address(self) -> str:
        """What a client connects to."""
        return f"127.0.0.2:{self.port}"

    @contextmanager
    def letting_in(self) -> Iterator[None]:
        """Within the block, what this process starts may connect: clients must say how just as nodes do."""
        names = ("RAY_AUTH_MODE", "HOME")
        before = {name: os.environ.get(name) for name in names}
        os.environ.update({name: self.environment[name] for name in names})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)


def _read_command(process: psutil.Process) -> str:
    """Its words; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _choose_environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BACKFILL_"))}
    return kept | {
        "HOME": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(folder / "gcs"),
        # A node whose raylet was killed is found out sooner than in the 15 s and more that are usual.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return int(probe.getsockname()[1])
