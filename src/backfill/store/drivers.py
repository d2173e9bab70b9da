"""Which database holds the rows, as the settings say. Nothing of the others is loaded."""

from pathlib import Path

from backfill.config import StoreConfig
from backfill.store.driver import Driver
from backfill.store.sqlite import DATABASE, SqliteDriver

__all__ = ["choose_driver"]


def choose_driver(config: StoreConfig, data_dir: Path) -> Driver:
    """The database of this data directory, or the one that is named instead; raises InvalidConfig."""
    if config.metadata is None:
        return SqliteDriver(data_dir / DATABASE)
    from backfill.store.postgres import PostgresDriver  # noqa: PLC0415 - see above

    return PostgresDriver(config.metadata.get_secret_value())
