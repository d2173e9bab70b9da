"""The rows, on the clock of the simulation: real statements on a real SQLite file, and what each of them takes in time.

Statements are carried out at once, all in one transaction that is never committed. What a transaction would take is
added to the virtual clock: those that write go one after another, as SQLite has it, each for as long as was measured
of its kind; looks go beside each other.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import Row

from backfill.store import SqliteDriver
from backfill.store.database import Change, Database

__all__ = ["Costs", "Kind", "VirtualDatabase", "VirtualDriver", "of_kind"]

EPOCH_MS = 1_700_000_000_000
_Result = TypeVar("_Result")


class Kind(StrEnum):
    """What a transaction that writes is for."""

    CLAIM = "claim"
    """A turn, of those that wait."""
    FURTHER = "further"
    """The next slices of a batch that is open already."""
    GIVE_BACK = "give_back"
    RENEWAL = "renewal"
    HEARTBEAT = "heartbeat"
    OTHER = "other"
    """Admission, expiry, closing, duties, the scaler's own row."""


class Costs(NamedTuple):
    """Seconds of the one writer for a transaction, by its kind; and of a look."""

    writes: Mapping[Kind, float] = dict.fromkeys(Kind, 0.001)
    look_s: float = 0.001


_kind: ContextVar[Kind] = ContextVar("kind", default=Kind.OTHER)


@contextmanager
def of_kind(kind: Kind) -> Iterator[None]:
    """What is written in the block is of that kind."""
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


class VirtualDriver(SqliteDriver):
    """SQLite, but with turns taken in one transaction, as where many processes on many machines write."""

    many_writers = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin_virtual(self) -> None:
        """Go by the clock of the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def now_ms(self) -> int:
        """Virtual milliseconds, from an epoch of its own on."""
        return EPOCH_MS + (0 if self._loop is None else round(1000 * self._loop.time()))


class VirtualDatabase(Database):
    """See above. Counts what is asked of it."""

    def __init__(self, driver: VirtualDriver, costs: Costs) -> None:
        super().__init__(driver)
        driver.begin_virtual()
        self.writes: Counter[Kind] = Counter()
        """Transactions, those among them that are only counted."""
        self.looks = 0
        self.busy_s = 0.0
        """Of the one writer."""
        self.waited_s = 0.0
        """Of those that wrote, until the writer was theirs."""
        self._costs = costs
        self._free_at_s = 0.0
        self._connection = self._writer.connect()
        self._connection.exec_driver_sql("PRAGMA synchronous=OFF")
        self._connection.exec_driver_sql("PRAGMA cache_size=-400000")
        self._connection.commit()
        self._transaction = self._connection.begin()
        driver.begin(self._connection, alone=True)

    async def write(self, change: Change[_Result], *, alone: bool = True) -> _Result:  # noqa: ARG002 - all are
        """See `Database`."""
        result = change(self._connection)
        now_s = asyncio.get_running_loop().time()
        self.waited_s += max(0.0, self._free_at_s - now_s)
        self.occupy(_kind.get(), 1)
        await asyncio.sleep(self._free_at_s - now_s)
        return result

    def occupy(self, kind: Kind, count: int) -> None:
        """Have the writer be busy with so many transactions more, of which nobody looks at what they do."""
        cost_s = count * self._costs.writes[kind]
        self.writes[kind] += count
        self.busy_s += cost_s
        self._free_at_s = max(self._free_at_s, asyncio.get_running_loop().time()) + cost_s

    async def find(self, query: Any, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """See `Database`."""
        return await self.read(query, values)

    async def look(self, look: Callable[[Connection], _Result]) -> _Result:
        """See `Database`."""
        self.looks += 1
        found = look(self._connection)
        await asyncio.sleep(self._costs.look_s)
        return found

    async def close(self) -> None:
        """Forget all of it."""
        self._transaction.rollback()
        self._connection.close()
        await super().close()
