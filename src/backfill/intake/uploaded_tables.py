"""Uploaded tables: what form they have, their columns and rows. Each is read through once, and remembered opened."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from backfill.batch import File, FileStatus
from backfill.errors import Conflict, InvalidInput, NotFound
from backfill.purposes import TABLE_PURPOSE
from backfill.store import Blobs, content_key, telling
from backfill.tables import LOOK_BYTES, Form, NoText, Table, open_form, recognise_form, render_text

__all__ = ["TableFacts", "UploadedTables"]

# A table is read for seconds: the threads that all others share must not be taken for so long.
_THREADS = 2
_KEPT = 32
_COLUMNS_SHOWN = 50
_CELL_LENGTH = 200

_Result = TypeVar("_Result")


class TableFacts(NamedTuple):
    """What a table is."""

    form: Form
    columns: list[str]
    rows: int
    note: str | None
    """What was assumed of the file, if a person should know."""
    first: list[list[str | None]]
    """The first rows: of the first columns, each cell as text and cut; None for null and for what has no text."""


class UploadedTables:
    """Those of all owners. Nothing is copied, and no more of a table is held in memory than a few rows."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._opened: OrderedDict[str, tuple[Form, Table]] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._threads = ThreadPoolExecutor(_THREADS, "table")

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """What `work` gives, in a thread for tables; raises StoreUnavailable if the disk fails."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _tell_disk, work)

    async def open(self, file: File) -> Table:
        """The table that was uploaded as `file`.

        Raises:
            InvalidInput: it is none, with the line where there is one; or what it takes is not installed.
            Conflict: its bytes have not come yet.
            NotFound: they are gone.
            StoreUnavailable: the disk does not give them now.

        """
        return (await self._find(file))[1]

    async def describe(self, file: File, rows_shown: int) -> TableFacts:
        """What the table is, with its first rows; raises as `open`."""
        form, table = await self._find(file)
        first = await self.run(lambda: _read_first(table, rows_shown))
        return TableFacts(form, list(table.columns), table.rows, table.note, first)

    async def _find(self, file: File) -> tuple[Form, Table]:
        if file.purpose != TABLE_PURPOSE:
            message = f"The file {file.id} has the purpose {file.purpose}; a table is uploaded with the purpose table."
            raise InvalidInput(message, param="file_id", code="invalid_file_purpose")
        if file.status is not FileStatus.SEALED:
            raise Conflict(f"The file {file.id} has no content yet: no bytes were uploaded.", code="file_not_uploaded")
        lock = self._locks.get(file.id)
        if lock is None:
            lock = self._locks[file.id] = asyncio.Lock()
        async with lock:
            found = self._opened.get(file.id)
            if found is not None:
                # It may have been deleted, or the copy that was read be gone.
                await self.run(lambda: self._blobs.fetch(content_key(file.id)))
            else:
                found = self._opened[file.id] = await self.run(lambda: self._open(file))
                if len(self._opened) > _KEPT:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(file.id)
        return found

    def _open(self, file: File) -> tuple[Form, Table]:
        key = content_key(file.id)
        with self._blobs.open(key) as reader:
            form = recognise_form(reader.read(0, LOOK_BYTES), file.filename)
        return form, open_form(self._blobs.fetch(key), form, file.filename)


def _tell_disk(work: Callable[[], _Result]) -> _Result:
    with telling("read", Path("a table")):
        try:
            return work()
        except FileNotFoundError:
            raise NotFound("The table is gone.", param="file_id") from None


def _read_first(table: Table, rows: int) -> list[list[str | None]]:
    columns = list(table.columns)[:_COLUMNS_SHOWN]
    block = next(table.read(), None)
    return [] if block is None else [[_show(value) for value in row] for row in block.head(rows).take(columns)]


def _show(value: object) -> str | None:
    if value is None:
        return None
    try:
        text = render_text(value)
    except NoText:
        return None
    return text if len(text) <= _CELL_LENGTH else f"{text[:_CELL_LENGTH]}…"
