"""What Ray runs on a node: an actor that keeps one worker's process. No line of a batch passes through it."""

import os

from backfill.scaler.worker_process import WorkerProcess, make_command

__all__ = ["RayWorker"]


class RayWorker:
    """Made an actor by `ray_client`. What it is given is kept by Ray where others can read it: it holds no secret."""

    def __init__(self, engine: str, config_file: str) -> None:
        """Start the worker. Its settings are those of the node: the file there, and the environment of its raylet."""
        self._worker = WorkerProcess(make_command(os.getpid(), engine, config_file), dict(os.environ))

    def tell(self) -> dict[str, str | int]:
        """How it is now."""
        return self._worker.tell()

    def drain(self) -> None:
        """Have it give its turns back and end."""
        self._worker.drain()
