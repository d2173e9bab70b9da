"""The places where bytes may lie, for suites that hold for each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from backfill.config import load_config
from backfill.store import Blobs, LocalBlobs, open_blobs
from bench.scale.seaweed import ObjectServer

__all__ = ["DiskStore", "ObjectStore", "Store"]


class Store(Protocol):
    """A place of a test's own."""

    def opened(self) -> Any:
        """A context manager for its blobs, as one process has them."""


class DiskStore:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def opened(self) -> Iterator[Blobs]:
        """As one process has it."""
        yield LocalBlobs(self._folder / "blobs")


class ObjectStore:
    """A bucket of an S3 server."""

    def __init__(self, server: ObjectServer, folder: Path) -> None:
        self.settings = server.settings()
        self._folder = folder

    @contextmanager
    def opened(self) -> Iterator[Blobs]:
        """As one process has it."""
        config = load_config(environment={}, overrides={**self.settings, "data_dir": str(self._folder)})
        blobs = open_blobs(config.store, config.data_dir)
        try:
            yield blobs
        finally:
            blobs.close()
