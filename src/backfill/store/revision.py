"""The revision of the schema: which one a database has, whose code may work on it, and how it comes to the newest.

Migrations follow expand and contract (Martin Fowler, "Parallel change"). One that expands leaves right whatever code
of the step before reads and writes, so that old and new processes work side by side until the last old one is gone.
One that contracts does not, and is made only while nobody else works. The database says itself, in the transaction
that changes it, which revision it has and what the oldest one is whose code may work on it.

Alembic is loaded only where a database has to be changed: that takes as long as half of a start.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select
from sqlalchemy.exc import OperationalError

from backfill.errors import SchemaMismatch, StoreBusy
from backfill.store.late_indexes import make_indexes_at_once
from backfill.store.presence import find_others
from backfill.store.schema import metadata, secrets

__all__ = ["Revision", "bring_up_to_date", "check_revision", "choose_change", "find_newest", "read_revision"]

_MIGRATIONS = Path(__file__).parent / "migrations"
# As Alembic makes it.
_VERSIONS = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
_OLDEST = "oldest_schema"
"""Under this name a database keeps, among the secrets, the oldest revision whose code may work on it."""
_KIND = re.compile(r'^kind = "(expand|contract)"$', re.MULTILINE)
# Whoever waits for a table keeps all others from it who come later.
_LOCK_PATIENCE = "2s"
_LOCK_NOT_AVAILABLE = "55P03"


class Revision(NamedTuple):
    """What a database says of its schema."""

    found: str | None
    """None: it has no tables yet."""
    oldest: str | None
    """The oldest revision whose code may work on it; None: it does not say, and only that of its own may."""


def choose_change(
    clock_ms: Callable[[], int], *, is_shared: bool, holders: str, may_expand: bool = False
) -> Callable[[Connection], None]:
    """What is done about the schema by who opens a database.

    `is_shared`: others work on it; nothing is changed, or with `may_expand` only by a migration that all of them bear.
    `holders`: others may work on it, which have leases, but for those whose names begin so; while they do, it is
    changed only so too.
    """

    def change(connection: Connection) -> None:
        found, newest = read_revision(connection), find_newest()
        others: Mapping[str, str | None] = {}
        if is_shared or holders:
            others = find_others(connection, "" if is_shared else holders, clock_ms())
        is_alone = not (is_shared or others)
        if found.found is not None and found.found >= newest:
            check_revision(found)
            if found.found == newest and found.oldest is None and is_alone:
                # Of before it was recorded; and nobody is here who might not tell which schema he knows.
                _record_oldest(connection)
            return
        if not is_alone:
            _check_expansion(found, others, may_expand=may_expand or not is_shared)
        bring_up_to_date(connection)

    return change


def bring_up_to_date(connection: Connection) -> None:
    """Make the tables, or change them as far as they are old.

    Raises:
        SchemaMismatch: they are too new.
        StoreBusy: somebody holds a table, such as a back-up; to be tried again.

    """
    newest = find_newest()
    if not inspect(connection).get_table_names():
        # As Alembic's cookbook does it: what all migrations together would make is what the schema says.
        metadata.create_all(connection)
        _VERSIONS.create(connection)
        connection.execute(_VERSIONS.insert().values(version_num=newest))
        _record_oldest(connection)
        return
    found = read_revision(connection)
    if found.found is not None and found.found > newest:
        check_revision(found)
    elif found.found != newest:
        _migrate(connection)
        make_indexes_at_once(connection)
        _record_oldest(connection)


def read_revision(connection: Connection) -> Revision:
    """What the database says now."""
    tables = inspect(connection).get_table_names()
    if _VERSIONS.name not in tables:
        return Revision(None, None)
    found = connection.scalar(select(_VERSIONS.c.version_num))
    oldest = connection.scalar(select(secrets.c.value).where(secrets.c.name == _OLDEST))
    return Revision(found, bytes(oldest).decode() if oldest else None)


def check_revision(found: Revision) -> None:
    """Return if this code may work on it; raises SchemaMismatch."""
    newest = find_newest()
    if found.found == newest or (found.found or "") > newest >= (found.oldest or found.found or ""):
        return
    if (found.found or "") > newest:
        message = (
            f"A newer Backfill has changed it: its schema is {found.found}, for versions that know "
            f"{found.oldest or found.found} at least, and this one knows schemas up to {newest}. Start a newer version."
        )
    else:
        message = f"Its schema is {found.found}, and this Backfill has {newest}: it was put back under this process."
    raise SchemaMismatch(message)


def find_newest() -> str:
    """Of the modules of migrations, r0001_files_and_batches.py and so on, the last one's number."""
    return max(_list_steps())


def _check_expansion(found: Revision, others: Mapping[str, str | None], *, may_expand: bool) -> None:
    """Return if these processes may go on while the schema is brought to the newest; raises SchemaMismatch."""
    newest = find_newest()
    steps = [step for step in _list_steps() if step > (found.found or "")]
    if not may_expand:
        reason = "a command leaves that to a server"
    elif len(steps) > 1:
        reason = f"that is {len(steps)} steps, and others can go on beside one alone"
    elif _read_kind(newest) != "expand":
        reason = "older versions cannot work on that one"
    elif found.oldest is None or None in others.values():
        reason = "some of them are of a version that does not tell which schemas it can work on"
    elif any((knows or "") < (found.found or "") for knows in others.values()):
        reason = f"some of them know only schemas before {found.found}"
    else:
        return
    message = (
        f"Other processes work on it with the schema {found.found}, and this Backfill has {newest}: {reason}. Stop all "
        "of them first. One that was killed counts until its leases are over (server.lease_s)."
    )
    raise SchemaMismatch(message)


def _record_oldest(connection: Connection) -> None:
    """Of the newest revision."""
    steps = sorted(_list_steps())
    oldest = steps[-2] if _read_kind(steps[-1]) == "expand" else steps[-1]
    connection.execute(secrets.delete().where(secrets.c.name == _OLDEST))
    connection.execute(secrets.insert().values(name=_OLDEST, value=oldest.encode()))


def _list_steps() -> dict[str, Path]:
    return {path.name[1:5]: path for path in (_MIGRATIONS / "versions").glob("r*.py")}


def _read_kind(step: str) -> str:
    """As the module says it, which is not loaded for that."""
    said = _KIND.search(_list_steps()[step].read_text(encoding="utf-8"))
    return said[1] if said else "contract"


def _migrate(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", os.fspath(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
    try:
        command.upgrade(config, "head")
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        message = "Its schema has to be changed, and somebody holds a table of it: a back-up, or an open session."
        raise StoreBusy(message) from error
