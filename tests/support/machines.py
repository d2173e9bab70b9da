"""Several machines: each process has a data directory of its own, and what they share lies elsewhere."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backfill.config import load_config
from backfill.store import Blobs, open_blobs
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.support.company import Company
from tests.support.rows import PostgresRows

__all__ = ["Machines", "RemoteStore"]


class RemoteStore:
    """Rows in a schema of a database server, files under a prefix of an object store's."""

    def __init__(self, postgres: PostgresServer, objects: ObjectServer, schema: str) -> None:
        self.rows = PostgresRows(postgres, schema)
        self.dotted = self.rows.settings | objects.settings()
        """As `load_config` takes them."""

    @property
    def settings(self) -> dict[str, str]:
        """As `BackfillServer` takes them."""
        return {name.replace(".", "__"): str(value) for name, value in self.dotted.items()}

    @property
    def variables(self) -> dict[str, str]:
        """As a command finds them in its environment."""
        return {f"BACKFILL_{name.upper()}": value for name, value in self.settings.items()}

    def run(self, statement: str, *values: object) -> list[Any]:
        """Carry out a statement, with "?" for each value; what it gives."""
        numbers = iter(range(len(values)))
        named = re.sub(r"\?", lambda _: f":value_{next(numbers)}", statement)
        return self.rows.run(named, **{f"value_{number}": value for number, value in enumerate(values)})

    def open_blobs(self, folder: Path) -> Blobs:
        """The files, as one process has them; to be closed."""
        config = load_config(environment={}, overrides={**self.dotted, "data_dir": str(folder)})
        return open_blobs(config.store, config.data_dir)


class Machines(Company):
    """As `Company`, of processes that have nothing in common but a `RemoteStore`."""

    def __init__(self, folder: Path, engine_url: str | Sequence[str], store: RemoteStore, **options: Any) -> None:
        self.store = store
        super().__init__(folder, engine_url, **(options | store.settings))

    def find_folder(self, process: str) -> Path:
        return self.data_dir / process

    def run(self, statement: str, *values: object) -> list[Any]:
        return self.store.run(statement, *values)
