"""How long it takes to choose the next turn and to lease it, with many batches waiting, on each database.

Beside SQLite's figure stands its floor in the same run: one statement by key and its commit, without anything of ours.
A claim must be on disk before work begins, so none can take less than the disk takes for that.
"""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import msgspec
from sqlalchemy import Connection, text

from backfill.batch import Batch, Counts, State
from backfill.config import LimitsConfig
from backfill.store import Driver, Metadata, SqliteDriver
from backfill.store.postgres import PostgresDriver
from backfill.store.schema import batches
from backfill.turns import Turns
from bench.findings import Findings, Setting, tell
from bench.postgres.server import PostgresServer

__all__ = ["measure_claims"]

_WAITING = 10_000
_OWNERS = 20
_CLAIMS = 200
_DAY_MS = 24 * 3_600_000
_REPEATS = 2


def measure_claims(setting: Setting, findings: Findings) -> None:
    """Both sides one after the other, each with rows of its own."""
    waiting = setting.scale(_WAITING)
    repeats = setting.count_repeats(_REPEATS)
    with PostgresServer(parent=setting.folder.parent, is_durable=True) as server:
        for number in range(repeats):
            path = setting.make_folder() / "claims.db"
            sqlite_ms = asyncio.run(_claim(SqliteDriver(path), waiting))
            floor_ms = _measure_floor(path)
            postgres_ms = asyncio.run(_claim(PostgresDriver(server.make_database(f"claims-{number}")), waiting))
            findings.add(claim_ms_sqlite=sqlite_ms, claim_ms_postgres=postgres_ms)
            tell(
                f"claims, run {number + 1} of {repeats}: SQLite {sqlite_ms:.2f} ms, PostgreSQL {postgres_ms:.2f} ms "
                f"(bare SQLite on this disk {floor_ms:.2f} ms), "
                f"with {waiting} waiting"
            )


async def _claim(driver: Driver, waiting: int) -> float:
    """The median in milliseconds."""
    metadata = await Metadata.open(driver)
    try:
        rows = _make_rows(metadata.database.now_ms(), waiting)
        await metadata.database.write(lambda connection: _write(connection, rows))
        turns = Turns(metadata, LimitsConfig(), metadata.database.now_ms)
        took_s = []
        for _ in range(min(_CLAIMS, waiting)):
            started_s = time.perf_counter()
            taken = await turns.take(1)
            took_s.append(time.perf_counter() - started_s)
            await turns.give_back(taken[0], drained=True)
        return 1000 * median(took_s)
    finally:
        await metadata.close()


def _measure_floor(path: Path) -> float:
    """The median in milliseconds of a bare update of one row, committed to disk as ours are."""
    update = "UPDATE batches SET holder = 'bare', lease_until_ms = 1, epoch = epoch + 1 WHERE id = ?"
    took_s = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        ids = connection.execute("SELECT id FROM batches LIMIT ?", (_CLAIMS,)).fetchall()
        for each in ids:
            started_s = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(update, each)
            connection.execute("COMMIT")
            took_s.append(time.perf_counter() - started_s)
    return 1000 * median(took_s)


def _write(connection: Connection, rows: list[dict[str, object]]) -> None:
    connection.execute(batches.insert(), rows)
    # What a server finds out by itself within a minute.
    connection.execute(text("ANALYZE"))


def _make_rows(now: int, waiting: int) -> list[dict[str, object]]:
    """Batches that were admitted, of some owners."""
    return [
        msgspec.structs.asdict(
            Batch(
                id=f"batch-{number}",
                owner=f"owner-{number % _OWNERS}",
                endpoint="/v1/chat/completions",
                input_file_id=f"file-{number}",
                input_size_bytes=1,
                state=State.IN_PROGRESS,
                created_at_ms=now + number,
                deadline_at_ms=now + number + _DAY_MS,
            )
        )
        | {"counts": msgspec.to_builtins(Counts(total=5)), "holder": None, "lease_until_ms": 0}
        for number in range(waiting)
    ]
