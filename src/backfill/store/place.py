"""What tells one data directory from every other, of those that have rows in one database."""

import os
import secrets
from pathlib import Path

from sqlalchemy import select

from backfill.errors import StoreUnavailable
from backfill.store.database import Database
from backfill.store.permissions import FILE_MODE
from backfill.store.schema import secrets as secrets_table

__all__ = ["PLACE_ROW", "find_row_mark", "read_place"]

PLACE_ROW = "data_directory"
"""Under this name a database keeps its mark among the secrets: that of the first data directory it was used with."""

_NAME = "place"
_SIZE_BYTES = 8


async def find_row_mark(database: Database) -> str | None:
    """The mark of a database; None if it has none yet."""
    rows = await database.read(select(secrets_table.c.value).where(secrets_table.c.name == PLACE_ROW))
    return bytes(rows[0].value).decode() if rows else None


def read_place(data_dir: Path) -> str:
    """16 hexadecimal digits, the same ever after. Raises StoreUnavailable. Only for who holds the directory's lock."""
    path = data_dir / _NAME
    try:
        found = path.read_text(encoding="ascii") if path.exists() else ""
        if len(found) == 2 * _SIZE_BYTES:
            return found
        # Whole under its name, or not there.
        unfinished = path.with_name(f"{_NAME}.partial")
        fresh = secrets.token_hex(_SIZE_BYTES)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
            file.write(fresh)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError as error:
        message = f"Cannot read or write {path}: {error.strerror or error}."
        raise StoreUnavailable(message) from error
    return fresh
