"""A database, opened, with a schema that this code may work on."""

import asyncio
from collections.abc import Callable

from sqlalchemy import Connection

from backfill.errors import StoreBusy, StoreUnavailable
from backfill.store.database import Database
from backfill.store.driver import Driver

__all__ = ["open_database"]

_TRIES = 10
_PAUSE_S = 1.0
"""Meanwhile whoever waited behind this one for the table goes on."""


async def open_database(
    driver: Driver, make_change: Callable[[Callable[[], int]], Callable[[Connection], None]]
) -> Database:
    """Open it, with what `make_change` gives for its clock as the first transaction; to be closed.

    Raises:
        StoreUnavailable: it cannot be reached or used; `SchemaMismatch` because of its schema.
        InvalidConfig: the package that it takes is not installed.

    """
    try:
        await asyncio.to_thread(driver.prepare)
    except OSError as error:
        message = f"The metadata database {driver.name} cannot be opened: {error.strerror}."
        raise StoreUnavailable(message) from None
    database = Database(driver)
    try:
        await _write_patiently(database, make_change(database.now_ms))
    except StoreUnavailable as error:
        await database.close()
        message = f"The metadata database {driver.name} cannot be opened. {error.message}"
        raise type(error)(message) from error
    except BaseException:
        await database.close()
        raise
    return database


async def _write_patiently(database: Database, change: Callable[[Connection], None]) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            return await database.write(change)
        except StoreBusy:
            if not tries_left:
                raise
        await asyncio.sleep(_PAUSE_S)
    raise AssertionError  # the last try returns or raises
