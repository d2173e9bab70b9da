"""What tells one data directory from every other, of those that have rows in one database."""

import os
import secrets
from pathlib import Path

from backfill.errors import StoreUnavailable
from backfill.store.permissions import FILE_MODE

__all__ = ["read_place"]

_NAME = "place"
_SIZE_BYTES = 8


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
