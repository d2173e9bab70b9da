"""The keys of a data directory, changed where they lie: for the first key, and for who has lost the last one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from backfill.accounts import KeyDraft, Keys
from backfill.config import Config
from backfill.errors import InvalidInput, StoreBusy
from backfill.intake import check_database
from backfill.store import ApiKeys, Driver, FolderLock, Metadata, choose_driver
from backfill.wire.admin_keys import render_key

__all__ = ["LocalKeys", "ask_data_dir", "open_local_keys"]

_Answer = TypeVar("_Answer")
_Object = dict[str, Any]


class LocalKeys:
    """What `RemoteServer` offers for keys, without a server or beside one."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def list_keys(self) -> list[_Object]:
        """All keys, also those that were revoked, newest first."""
        return [render_key(key) for key in reversed(await self._keys.list())]

    async def create_key(self, members: _Object) -> _Object:
        """Make a key; gives it with `value`."""
        renamed = {"expires_after_s" if name == "expires_in_seconds" else name: each for name, each in members.items()}
        try:
            draft = msgspec.convert(renamed, KeyDraft)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"No such key can be made: {error}.") from None
        return render_key(*await self._keys.create(draft))

    async def revoke_key(self, key_id: str) -> None:
        """Let nobody in with it any more."""
        await self._keys.revoke(key_id)


@asynccontextmanager
async def open_local_keys(config: Config) -> AsyncIterator[LocalKeys]:
    """The keys of this data directory, also while a server works in it: it notices at its next request.

    With a database that others share, those servers notice that are elsewhere after some seconds.

    Raises:
        StoreUnavailable: the data directory cannot be used, or a server of another version works in it.

    """
    data_dir, driver = config.data_dir, choose_driver(config.store, config.data_dir)
    with _is_alone(data_dir) as alone:
        if alone:
            check_database(data_dir, driver)
        metadata = await Metadata.open(driver, is_shared=_has_others(driver) or not alone)
    try:
        stored = ApiKeys.open(metadata.database, data_dir)
        try:
            yield LocalKeys(Keys(stored))
        finally:
            stored.close()
    finally:
        await metadata.close()


def _has_others(driver: Driver) -> bool:
    """Whether servers of another version may work on it, wherever they are."""
    return driver.many_writers and driver.find_loss() is None


@contextmanager
def _is_alone(data_dir: Path) -> Iterator[bool]:
    """Whether no server works here; none can start meanwhile. Rows may be written in either case, but no tables."""
    try:
        lock = FolderLock(data_dir)
    except StoreBusy:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def ask_data_dir(work: Callable[[LocalKeys], Awaitable[_Answer]], config: Config) -> _Answer:
    """What `work` comes to with the keys of a data directory."""

    async def ask() -> _Answer:
        async with open_local_keys(config) as keys:
            return await work(keys)

    return asyncio.run(ask())
