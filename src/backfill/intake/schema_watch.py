"""Whether the schema is still one on which this process may work, while newer ones change it."""

import asyncio
from contextlib import suppress

import structlog

from backfill.errors import SchemaMismatch, StoreUnavailable
from backfill.store import Database, check_revision, find_newest, make_indexes_late, name_presence, read_revision
from backfill.turns import Duties

__all__ = ["SchemaWatch"]

_log = structlog.get_logger(__name__)


class SchemaWatch:
    """Tells others which schema this process knows, and ends it once it may not work on the one that there is."""

    def __init__(self, database: Database, duties: Duties, holder: str) -> None:
        """`holder`: the name of this process on leases."""
        self._database = database
        self._duties = duties
        self._presence = name_presence(holder, find_newest())
        self._known = find_newest()
        self._lacks_indexes = True
        self._stopping = asyncio.Event()

    async def begin(self) -> None:
        """From now on nobody changes the schema in a way that this process does not bear.

        Raises:
            SchemaMismatch: somebody has done so since the database was opened.
            StoreUnavailable: the database cannot be used.

        """
        if not self._duties.is_alone:
            await self._duties.has(self._presence)
            # Behind it: whoever changed the schema before has not seen this process.
            await self._check()

    async def end(self) -> None:
        """This process does not matter any more."""
        await self._duties.drop(self._presence)

    async def run(self) -> None:
        """Look again and again until `stop` is called.

        Raises:
            SchemaMismatch: the schema was changed while this process stood still and was taken for dead.

        """
        if self._duties.is_alone:
            return
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._duties.period_s):
                    await self._stopping.wait()
                    return
            await self._look()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def _look(self) -> None:
        try:
            await self._check()
        except SchemaMismatch:
            raise
        except StoreUnavailable:
            return
        if self._lacks_indexes and self._known == find_newest():
            await self._make_indexes()

    async def _check(self) -> None:
        found = await self._database.look(read_revision)
        check_revision(found)
        if found.found != self._known:
            self._known = found.found or ""
            _log.warning(
                "a newer Backfill has brought the database one step ahead; this one goes on working on it",
                schema=found.found,
                known=find_newest(),
            )

    async def _make_indexes(self) -> None:
        made = await asyncio.to_thread(make_indexes_late, self._database.driver)
        self._lacks_indexes = made is None
        if made:
            _log.info("made indexes of the newest schema", indexes=made)
