"""The revision of the schema: which one a database has, and how it comes to the newest.

Alembic is loaded only where a database has to be changed: that takes as long as half of a start.
"""

import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

from backfill.errors import StoreUnavailable
from backfill.store.leases import find_others
from backfill.store.schema import metadata

__all__ = ["bring_up_to_date", "choose_change"]

_MIGRATIONS = Path(__file__).parent / "migrations"
# As Alembic makes it.
_VERSIONS = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def choose_change(clock_ms: Callable[[], int], *, is_shared: bool, holders: str) -> Callable[[Connection], None]:
    """What is done about the schema by who opens a database.

    `is_shared`: nothing, since others work on it; it must be the newest. `holders`: others may work on it, which have
    leases, but for those whose names begin so; it is changed while nobody has one.
    """
    if is_shared:
        return _check_revision

    def change(connection: Connection) -> None:
        found = _find_revision(connection)
        is_old = found is not None and found < _find_newest()
        if holders and is_old and find_others(connection, holders, clock_ms()) is not None:
            message = (
                f"Other processes work on it with the schema {found}, and this Backfill has {_find_newest()}: stop all "
                "of them first. One that was killed counts until its leases are over (server.lease_s)."
            )
            raise StoreUnavailable(message)
        bring_up_to_date(connection)

    return change


def bring_up_to_date(connection: Connection) -> None:
    """Make the tables, or change them as far as they are old; raises StoreUnavailable if they are too new."""
    newest = _find_newest()
    tables = inspect(connection).get_table_names()
    if not tables:
        # As Alembic's cookbook does it: what all migrations together would make is what the schema says.
        metadata.create_all(connection)
        _VERSIONS.create(connection)
        connection.execute(_VERSIONS.insert().values(version_num=newest))
        return
    found = _find_revision(connection)
    if found is not None and found > newest:
        message = f"It was made by a newer Backfill: its schema is {found}, this one knows schemas up to {newest}."
        raise StoreUnavailable(message)
    if found != newest:
        _migrate(connection)


def _check_revision(connection: Connection) -> None:
    """Change nothing; raises StoreUnavailable unless the schema is the newest."""
    found = _find_revision(connection)
    if found != _find_newest():
        message = f"A Backfill of another version works on it: its schema is {found}, this one's is {_find_newest()}."
        raise StoreUnavailable(message)


def _find_revision(connection: Connection) -> str | None:
    is_there = _VERSIONS.name in inspect(connection).get_table_names()
    return connection.scalar(select(_VERSIONS.c.version_num)) if is_there else None


def _find_newest() -> str:
    """Of the modules of migrations, r0001_files_and_batches.py and so on, the last one's number."""
    return max(path.name[1:5] for path in (_MIGRATIONS / "versions").glob("r*.py"))


def _migrate(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", os.fspath(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
