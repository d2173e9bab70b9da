"""The process in which a killed or living server runs an engine, as its own user can look into it (Linux)."""

import urllib.request
from contextlib import suppress
from pathlib import Path

from backfill.engines.host_process import KEY_VARIABLE

__all__ = ["EngineProcess", "find_engine"]

_PROC = Path("/proc")
_LISTENING = "0A"


class EngineProcess:
    """A child process that serves HTTP for its parent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.key = _read_environment(pid)[KEY_VARIABLE]
        """What its parent brings with each request."""

    @property
    def is_running(self) -> bool:
        """Whether it is there, and no zombie."""
        with suppress(OSError):
            return (_PROC / str(self.pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def read_metric(self, name: str) -> int | None:
        """What its `/metrics` says; None while it does not answer."""
        port = _find_port(self.pid)
        if port is None:
            return None
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {self.key}"}
        )
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                found, _, value = line.partition(" ")
                if found == name:
                    return round(float(value))
        return None


def find_engine(server_pid: int, module: str) -> EngineProcess | None:
    """The child of a server that runs this module; None if there is none (yet)."""
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError, KeyError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server_pid and module.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                return EngineProcess(int(folder.name))
    return None


def _read_environment(pid: int) -> dict[str, str]:
    pairs = (_PROC / str(pid) / "environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _find_port(pid: int) -> int | None:
    """Where it listens; None while it does not."""
    sockets = set()
    with suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                sockets.add(str(descriptor.readlink()))
        for line in (_PROC / str(pid) / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in sockets:
                return int(fields[1].rpartition(":")[2], 16)
    return None
