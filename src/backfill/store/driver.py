"""What differs between the databases that can hold the rows. Queries are written once, in SQLAlchemy's terms."""

from collections.abc import AsyncGenerator
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

__all__ = ["Driver"]


class Driver(Protocol):
    """A database that is named in the settings; nothing is opened before it is asked for."""

    @property
    def name(self) -> str:
        """Where it is, for messages; never with a password."""

    @property
    def many_writers(self) -> bool:
        """Whether processes beside this one write rows at any time: what was read holds for a transaction alone."""

    def prepare(self) -> None:
        """What has to be there before a connection is opened. Raises OSError."""

    def open_writer(self) -> Engine:
        """For one connection that writes. Transactions are begun by `begin` and by nobody else."""

    def open_reader(self, connections: int) -> Engine:
        """For so many connections that read, each statement by itself."""

    def begin(self, connection: Connection, *, alone: bool) -> None:
        """Begin a transaction; `alone`: no other such transaction runs beside it, of whatever process."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the clock that all processes on this database share."""

    def call_out(self, connection: Connection, words: str) -> None:
        """Have all processes hear these words that `listen`, once the transaction of this connection is committed."""

    def listen(self) -> AsyncGenerator[str, None]:
        """What is called out from now on, behind an empty text that says so. Raises StoreUnavailable once it is deaf.

        Nothing of a database whose processes are all on one machine: they have marks (`ChangeMark`).
        """

    def may_repeat(self, error: SQLAlchemyError) -> bool:
        """Whether a transaction that failed before its commit is to be carried out once more at once."""

    def is_out(self, error: SQLAlchemyError) -> bool:
        """Whether the connection is lost, or there was none: of a commit that failed so nobody knows what it did."""

    def is_of_values(self, error: SQLAlchemyError) -> bool:
        """Whether the values were such as this database cannot keep: whoever sent them can change that."""

    def explain(self, error: SQLAlchemyError) -> str:
        """The database's own words on one line, without the statement, its values and any password."""

    def find_loss(self) -> str | None:
        """Why there is no database of ours, such as "gone"; None if there is one, or it cannot be told. Blocks."""

    def put_aside(self) -> None:
        """Move what is left of a lost database out of the way of a new one. Raises OSError."""

    def has_keys(self) -> bool:
        """Whether there is an API key; False if it cannot be told. Blocks. For the time before the rooms are open."""
