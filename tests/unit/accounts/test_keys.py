"""Keys of the database: who is let in, from when on and until when, whichever process changed it."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from backfill.accounts import ANONYMOUS, KeyDraft, Keys, keys
from backfill.accounts.key_uses import KeyUses
from backfill.api_key import ALL_SCOPES, KeyLimits, Scope
from backfill.errors import InvalidInput, NotFound, StoreUnavailable, Unauthorized
from backfill.store import ApiKeys, Metadata, SqliteDriver
from backfill.store.faults import failing
from tests.support.rows import RowsPlace


class House:
    """One process on the data directory."""

    def __init__(self, metadata: Metadata, folder: Path) -> None:
        self.stored = ApiKeys.open(metadata.database, folder)
        self.metadata = metadata
        self.keys = Keys(self.stored)

    async def close(self) -> None:
        self.stored.close()
        await self.metadata.close()


async def move_in(rows: RowsPlace, folder: Path) -> House:
    return House(await Metadata.open(rows.make_driver()), folder)


@pytest.fixture
async def house(rows: RowsPlace, tmp_path: Path) -> AsyncIterator[House]:
    house = await move_in(rows, tmp_path)
    yield house
    await house.close()


@pytest.fixture
async def other(rows: RowsPlace, tmp_path: Path, house: House) -> AsyncIterator[House]:
    """Another process, as far as the database and the mark can tell."""
    other = await move_in(rows, tmp_path)
    yield other
    await other.close()


def list_files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def refuse(keys: Keys, presented: str | None) -> str:
    with pytest.raises(Unauthorized) as refused:
        await keys.identify(presented)
    assert presented is None or presented not in refused.value.message
    return refused.value.code


async def test_the_first_key_shuts_the_door(house: House) -> None:
    assert (await house.keys.identify(None)).owner == ANONYMOUS
    assert (await house.keys.identify(None)).scopes == ALL_SCOPES
    assert not await house.keys.are_there()
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    assert await house.keys.are_there()
    assert await refuse(house.keys, None) == "missing_api_key"
    assert await refuse(house.keys, "bf_" + "x" * 40) == "invalid_api_key"
    caller = await house.keys.identify(secret)
    assert (caller.owner, caller.key_id) == ("ada", key.id)
    assert caller.scopes == {Scope.BATCH, Scope.LIVE}


async def test_the_end_of_the_last_key_does_not_open_it(house: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    await house.keys.revoke(key.id)
    assert await house.keys.are_there()
    assert await refuse(house.keys, None) == "missing_api_key"
    assert await refuse(house.keys, secret) == "api_key_revoked"


async def test_what_another_process_changes_holds_at_once(house: House, other: House) -> None:
    assert not await house.keys.are_there()
    key, secret = await other.keys.create(KeyDraft(name="ada"))
    assert (await house.keys.identify(secret)).owner == "ada"
    await other.keys.revoke(key.id)
    assert await refuse(house.keys, secret) == "api_key_revoked"


async def test_a_change_whose_process_died_before_it_said_so_is_found(
    house: House, other: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    await house.keys.identify(secret)
    monkeypatch.setattr(other.stored._mark, "renew", lambda: None)
    await other.stored.revoke(key.id, 1)
    await house.keys.identify(secret)
    monkeypatch.setattr(keys, "_AGE_MAX_S", 0.0)
    assert await refuse(house.keys, secret) == "api_key_revoked"


async def test_what_is_on_disk_holds_though_the_answer_was_that_it_failed(house: House, other: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    assert (await house.keys.identify(secret)).owner == (await other.keys.identify(secret)).owner == "ada"
    with failing("metadata.committed"), pytest.raises(StoreUnavailable):
        await house.keys.revoke(key.id)
    for process in (house, other):
        assert await refuse(process.keys, secret) == "api_key_revoked"
    with failing("metadata.committed"), pytest.raises(StoreUnavailable):
        await house.keys.create(KeyDraft(name="lost"))
    for process in (house, other):
        assert [key.name for key in await process.keys.list()] == ["ada", "lost"]


async def test_what_is_not_on_disk_changes_nothing(house: House, other: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    for point in ("metadata.begin", "metadata.before_commit"):
        with failing(point, times=2), pytest.raises(StoreUnavailable):
            await house.keys.revoke(key.id)
        with failing(point, times=2), pytest.raises(StoreUnavailable):
            await house.keys.create(KeyDraft(name="lost"))
        for process in (house, other):
            assert (await process.keys.identify(secret)).owner == "ada"
            assert len(await process.keys.list()) == 1


@pytest.mark.parametrize("broken", ["unreadable", "emptied"])
async def test_a_mark_that_is_lost_costs_time_and_nothing_else(
    house: House, tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    if broken == "emptied":
        os.truncate(tmp_path / "keys.mark", 0)
    else:
        monkeypatch.setattr(house.stored._mark, "_descriptor", -1)
    assert (await house.keys.identify(secret)).owner == "ada"
    await house.keys.revoke(key.id)
    assert await refuse(house.keys, secret) == "api_key_revoked"
    monkeypatch.undo()


async def test_nothing_is_read_as_long_as_nothing_changes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = await house.keys.create(KeyDraft(name="ada"))
    await house.keys.identify(secret)
    monkeypatch.setattr(house.stored, "list", None)
    await house.keys.identify(secret)
    await refuse(house.keys, "bf_" + "y" * 40)


async def test_while_the_database_is_out_known_keys_hold(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = await house.keys.create(KeyDraft(name="ada"))
    await house.keys.identify(secret)
    read = house.stored.list

    async def fail() -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(house.stored, "list", fail)
    monkeypatch.setattr(keys, "_AGE_MAX_S", 0.0)
    assert (await house.keys.identify(secret)).owner == "ada"
    # Somebody changed a key: which one cannot be told, and nobody is let in on what may not hold any more.
    house.stored._mark.renew()
    with pytest.raises(StoreUnavailable):
        await house.keys.identify(secret)
    monkeypatch.setattr(house.stored, "list", read)
    assert (await house.keys.identify(secret)).owner == "ada"


async def test_a_key_expires_by_the_clock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada", expires_after_s=60))
    caller = await house.keys.identify(secret)
    assert key.expires_at_ms == key.created_at_ms + 60_000
    for late_ms, expected in ((59_999, True), (60_000, False), (-3_600_000, True)):
        monkeypatch.setattr(keys, "now_ms", lambda late_ms=late_ms: key.created_at_ms + late_ms)
        assert await house.keys.is_valid(caller) is expected
        if not expected:
            assert await refuse(house.keys, secret) == "api_key_expired"


async def test_a_new_key_of_the_same_owner_keeps_what_is_theirs(house: House) -> None:
    _, first = await house.keys.create(KeyDraft(name="ada"))
    _, second = await house.keys.create(KeyDraft(name="laptop", owner="ada"))
    assert (await house.keys.identify(first)).owner == (await house.keys.identify(second)).owner == "ada"


async def test_admin_holds_every_scope(house: House) -> None:
    _, secret = await house.keys.create(KeyDraft(name="root", scopes=(Scope.ADMIN,)))
    assert (await house.keys.identify(secret)).scopes == ALL_SCOPES


async def test_limits_come_back_as_they_were_given(house: House, other: House) -> None:
    limits = KeyLimits(requests_per_minute=60, enqueued_tokens=30_000_000_000)
    _, secret = await house.keys.create(KeyDraft(name="ada", limits=limits))
    assert (await other.keys.identify(secret)).limits == limits


async def test_the_key_is_nowhere_on_disk(house: House, tmp_path: Path) -> None:
    _, secret = await house.keys.create(KeyDraft(name="ada"))
    found = {path.name: path.read_bytes() for path in list_files(tmp_path)}
    assert "keys.mark" in found
    assert not any(secret.encode() in content for content in found.values())


async def test_keys_of_the_settings_go_on_working_beside_them(house: House) -> None:
    both = Keys(house.stored, ["from-the-settings"])
    _, secret = await both.create(KeyDraft(name="ada"))
    caller = await both.identify("from-the-settings")
    assert (len(caller.owner), caller.key_id, caller.scopes) == (24, None, ALL_SCOPES)
    assert (await both.identify(secret)).owner == "ada"


@pytest.mark.parametrize(
    "draft",
    [
        KeyDraft(name=""),
        KeyDraft(name=" ada"),
        KeyDraft(name="a\nb"),
        KeyDraft(name="a" * 65),
        KeyDraft(name="ada", owner="\x1b[31m"),
        KeyDraft(name="ada", scopes=()),
        KeyDraft(name="ada", expires_after_s=0),
        KeyDraft(name="ada", expires_after_s=2**60),
        KeyDraft(name="ada", limits=KeyLimits(lines=0)),
    ],
    ids=range(9),
)
async def test_what_makes_no_key(house: House, draft: KeyDraft) -> None:
    with pytest.raises(InvalidInput):
        await house.keys.create(draft)
    assert not await house.keys.are_there()


async def test_an_unknown_key_cannot_be_revoked(house: House) -> None:
    with pytest.raises(NotFound):
        await house.keys.revoke("key_nothing")


async def test_whether_there_are_keys_is_told_without_opening_anything(
    house: House, rows: RowsPlace, tmp_path: Path
) -> None:
    assert not SqliteDriver(tmp_path / "nothing.db").has_keys()
    assert not (tmp_path / "nothing.db").exists()
    assert not rows.make_driver().has_keys()
    await house.keys.create(KeyDraft(name="ada"))
    assert rows.make_driver().has_keys()


async def test_the_last_use_is_shown_at_once_and_written_for_other_processes(house: House, other: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    unused, _ = await house.keys.create(KeyDraft(name="bob"))
    assert (await house.keys.get(key.id)).last_used_at_ms is None
    began_ms = keys.now_ms()
    await house.keys.identify(secret)
    used_at_ms = (await house.keys.get(key.id)).last_used_at_ms
    assert used_at_ms is not None
    assert began_ms <= used_at_ms <= keys.now_ms()
    assert [each.last_used_at_ms for each in await other.stored.list()] == [None, None]
    await house.keys.uses.write()
    assert {each.id: each.last_used_at_ms for each in await other.stored.list()} == {
        key.id: used_at_ms,
        unused.id: None,
    }


async def test_who_is_refused_has_not_used_a_key(house: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    await house.keys.revoke(key.id)
    await refuse(house.keys, secret)
    assert [each.last_used_at_ms for each in await house.keys.list()] == [None]


async def test_a_use_costs_no_write_of_its_own_and_none_is_lost_with_the_database(house: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    writes: list[dict[str, int]] = []
    is_broken = True

    async def write(uses: Mapping[str, int]) -> None:
        if is_broken:
            raise StoreUnavailable("The disk is out.")
        writes.append(dict(uses))

    house.keys.uses = KeyUses(write)
    for _ in range(100):
        await house.keys.identify(secret)
    await house.keys.uses.write()
    is_broken = False
    await house.keys.uses.write()
    await house.keys.uses.write()
    assert [list(each) for each in writes] == [[key.id]]


async def test_what_was_used_is_written_at_the_end(house: House) -> None:
    key, secret = await house.keys.create(KeyDraft(name="ada"))
    running = asyncio.create_task(house.keys.uses.run())
    await house.keys.identify(secret)
    house.keys.uses.stop()
    await running
    assert [each.last_used_at_ms for each in await house.stored.list()] == [
        (await house.keys.get(key.id)).last_used_at_ms
    ]
