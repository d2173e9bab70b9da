"""PostgreSQL: rows that several processes share, on several machines if need be.

Transactions are READ COMMITTED, and those that SQLite would carry out one after the other take one advisory lock
first: what a change has read then holds until its commit, as after BEGIN IMMEDIATE, and no transaction is made in
vain. (SERIALIZABLE would give the same, but on small tables PostgreSQL takes nearly any two transactions for a
conflict, and whole groups of changes would be carried out again and again.) A process that dies or stands still gives
the lock back with its connection, after `_STALL_MAX` at the latest.
"""

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from backfill.errors import InvalidConfig, StoreUnavailable
from backfill.store.hang_watch import HangWatch

__all__ = ["PostgresDriver"]

_WRITERS = 0x6261636B66696C6C
"""The advisory lock of those who write alone; a number of ours, "backfill"."""
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_ALONE = f"{_BEGIN}; SELECT pg_advisory_xact_lock({_WRITERS})"
_STALL_MAX = "10s"
_SESSION = (
    f"SET lock_timeout = '{_STALL_MAX}'; SET idle_in_transaction_session_timeout = '{_STALL_MAX}'; "
    "SET client_min_messages = 'warning'"
)
# Of the schema, so that installations in one database hear nothing of each other.
_CHANNEL = "'backfill_' || left(md5(current_schema()), 16)"
_CALL_OUT = text(f"SELECT pg_notify({_CHANNEL}, :words)")
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_CLOCK_AGE_MAX_S = 10.0
# One that was held up on its way says little.
_CLOCK_TOOK_MAX_S = 0.25
# What the network does not tell is noticed after so long.
_NETWORK: dict[str, Any] = {
    "application_name": "backfill",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_REPEATED = frozenset({"40001", "40P01"})
"""Of two that were in each other's way PostgreSQL has ended this one."""
_OUT = frozenset({"57P01", "57P02", "57P03", "53300"})
"""It is being stopped or started, or takes no more connections."""


class PostgresDriver:
    """See `Driver`. Needs the extra `postgres`."""

    many_writers = True

    def __init__(self, url: str) -> None:
        """`url`: "postgresql://user:password@host/database"; raises InvalidConfig if it is none."""
        self._url = _read_url(url)
        self._clock = _Clock()
        self._hangs = HangWatch(self._is_silent, _refuse)

    @property
    def name(self) -> str:
        """See `Driver`."""
        port = f":{self._url.port}" if self._url.port else ""
        return f"postgresql://{self._url.host or 'localhost'}{port}/{self._url.database}"

    def prepare(self) -> None:
        """Nothing: the database itself is made by its own administrator."""

    def open_writer(self) -> Engine:
        """See `Driver`."""
        engine = self._open(pool_size=1, max_overflow=0)
        # Its connection is the first one, and is asked again from time to time.
        event.listen(engine, "connect", self._read_clock)
        return engine

    def open_reader(self, connections: int) -> Engine:
        """See `Driver`."""
        return self._open(pool_size=connections, max_overflow=0)

    def begin(self, connection: Connection, *, alone: bool) -> None:
        """See `Driver`."""
        if self._clock.age_s > _CLOCK_AGE_MAX_S:
            self._clock.measure(lambda: int(connection.exec_driver_sql(_CLOCK).scalar_one()))
        _send(connection, _BEGIN_ALONE if alone else _BEGIN)

    def now_ms(self) -> int:
        """See `Driver`: the database's own clock, as it was last seen, and what has gone by since."""
        return self._clock.now_ms()

    def call_out(self, connection: Connection, words: str) -> None:
        """See `Driver`."""
        connection.execute(_CALL_OUT, {"words": words})

    async def listen(self) -> AsyncGenerator[str, None]:
        """See `Driver`: on a connection of its own."""
        import psycopg  # noqa: PLC0415 - an extra, which may not be installed

        try:
            async with await psycopg.AsyncConnection.connect(self._address, autocommit=True, **_NETWORK) as connection:
                found = await (await connection.execute(f"SELECT {_CHANNEL}")).fetchone()
                assert found is not None  # noqa: S101 - it has one row
                await connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(found[0])))
                yield ""
                async for call in connection.notifies():
                    yield call.payload
        except (psycopg.Error, OSError) as error:
            raise StoreUnavailable(f"Nothing is heard of other processes: {type(error).__name__}.") from error

    def may_repeat(self, error: SQLAlchemyError) -> bool:
        """See `Driver`."""
        is_stale = isinstance(error, DBAPIError) and error.connection_invalidated
        return is_stale or _find_state(error) in _REPEATED

    def is_out(self, error: SQLAlchemyError) -> bool:
        """See `Driver`."""
        if not isinstance(error, DBAPIError):
            return False
        state = _find_state(error)
        is_unreached = isinstance(error, OperationalError) and state is None
        return error.connection_invalidated or is_unreached or state in _OUT or (state or "").startswith("08")

    def is_of_values(self, error: SQLAlchemyError) -> bool:
        """A text that is longer than its column, or holds a NUL."""
        return isinstance(error, DataError)

    def explain(self, error: SQLAlchemyError) -> str:
        """See `Driver`."""
        original = getattr(error, "orig", None)
        told = getattr(getattr(original, "diag", None), "message_primary", None) or str(original or "")
        password = self._url.password
        if password:
            told = told.replace(str(password), "***")
        return " ".join(told.split()) or type(error).__name__

    def find_loss(self) -> str | None:
        """See `Driver`."""
        engine = self._open(poolclass=NullPool)
        try:
            with engine.connect() as connection:
                return None if inspect(connection).has_table("batches") else "empty"
        except SQLAlchemyError:
            return None  # whoever opens it says what is wrong
        finally:
            engine.dispose()

    def put_aside(self) -> None:
        """Nothing: there is nothing in it."""

    def has_keys(self) -> bool:
        """See `Driver`."""
        engine = self._open(poolclass=NullPool)
        try:
            with engine.connect() as connection:
                return connection.execute(text("SELECT 1 FROM api_keys LIMIT 1")).first() is not None
        except SQLAlchemyError:
            return False
        finally:
            engine.dispose()

    @property
    def _address(self) -> str:
        return self._url.set(drivername="postgresql").render_as_string(hide_password=False)

    def _is_silent(self) -> bool:
        """Whether the server takes a connection and says nothing. One that is down refuses it."""
        import psycopg  # noqa: PLC0415 - an extra, which may not be installed

        try:
            psycopg.connect(self._address, **_NETWORK).close()
        except psycopg.errors.ConnectionTimeout:
            return True
        except (psycopg.Error, OSError):
            return False
        return False

    def _read_clock(self, connection: Any, _record: object) -> None:
        with self._hangs.over(connection):
            self._clock.measure(lambda: int(connection.execute(_CLOCK).fetchone()[0]))

    def _prepare_connection(self, connection: Any, _record: object) -> None:
        try:
            connection.autocommit = True
            with self._hangs.over(connection):
                connection.execute(_SESSION)
        except BaseException:
            # The pool never saw this connection, so nobody else would close it.
            connection.close()
            raise

    def _open(self, **pool: Any) -> Engine:
        try:
            engine = create_engine(
                self._url,
                connect_args=_NETWORK,
                # Each statement by itself; a transaction begins where `begin` says so.
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
                use_native_hstore=False,
                **pool,
            )
        except ModuleNotFoundError:
            message = "store.metadata names PostgreSQL, which needs its driver: pip install 'backfill[postgres]'."
            raise InvalidConfig(message, param="store.metadata") from None
        event.listen(engine, "connect", self._prepare_connection)
        self._hangs.watch(engine)
        return engine


class _Clock:
    """The database's clock, told by a clock of this machine that nobody sets."""

    def __init__(self) -> None:
        self._database_ms = time.time_ns() / 1e6
        self._seen_at_s = time.monotonic()
        self._is_known = False

    @property
    def age_s(self) -> float:
        """Since when nobody has asked the database."""
        return time.monotonic() - self._seen_at_s

    def measure(self, ask: Callable[[], int]) -> None:
        """Take in what the database says now."""
        asked_at_s = time.monotonic()
        database_ms = ask()
        answered_at_s = time.monotonic()
        if self._is_known and answered_at_s - asked_at_s > _CLOCK_TOOK_MAX_S:
            return
        self._database_ms, self._seen_at_s, self._is_known = database_ms, (asked_at_s + answered_at_s) / 2, True

    def now_ms(self) -> int:
        return int(self._database_ms + 1000 * (time.monotonic() - self._seen_at_s))


def _read_url(url: str) -> URL:
    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, NoSuchModuleError, ValueError):
        message = "store.metadata is no URL of a PostgreSQL database."
        raise InvalidConfig(message, param="store.metadata") from None


def _refuse() -> Exception:
    import psycopg  # noqa: PLC0415 - an extra, which may not be installed

    return psycopg.OperationalError("the database does not answer")


def _send(connection: Connection, statements: str) -> None:
    """Several statements in one message, which only goes without parameters."""
    connection.exec_driver_sql(statements, execution_options={"no_parameters": True})


def _find_state(error: SQLAlchemyError) -> str | None:
    """PostgreSQL's code of five characters; None if it said nothing."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)
