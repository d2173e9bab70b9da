"""What SQLite alone does: a file that several processes open before there is anything in it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backfill.errors import StoreUnavailable
from backfill.store import Metadata, sqlite
from backfill.store.sqlite import DATABASE


class Clock:
    """The time of a module, which passes only while it sleeps."""

    def __init__(self, asleep: Callable[[], object]) -> None:
        self._asleep = asleep
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, pause_s: float) -> None:
        self._now_s += pause_s
        self._asleep()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's: about to write into the new file, so that SQLite refuses to change the way it is written."""
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


async def test_a_new_file_that_another_process_writes_is_waited_for(
    tmp_path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "time", Clock(lambda: other.in_transaction and other.execute("COMMIT")))
    metadata = await Metadata.open(tmp_path / DATABASE)
    assert not other.in_transaction
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await metadata.close()


async def test_it_is_not_waited_for_forever(
    tmp_path: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "time", Clock(lambda: None))
    with pytest.raises(StoreUnavailable, match=r"cannot be opened\..*database is locked"):
        await Metadata.open(tmp_path / DATABASE)
    other.execute("COMMIT")
    await (await Metadata.open(tmp_path / DATABASE)).close()
