"""Files and journals that are older than they may become go; nothing that a batch still needs does."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from backfill.batch import Batch, File, State
from backfill.config import LimitsConfig, RetentionConfig, load_config
from backfill.errors import NotFound, StoreBusy, StoreFull, StoreUnavailable
from backfill.intake import Intake, Retention, collect
from backfill.store import DataSize, FolderLock, LocalBlobs, Metadata, content_key, facts_key, segment_key
from backfill.turns import BatchRequest, now_ms
from tests.support.lines import request_lines
from tests.support.rooms import OWNER, open_house, seal
from tests.support.rows import RowsPlace

DAY_MS = 86_400_000
ALL = RetentionConfig(inputs_days=1, outputs_days=2, journals_days=3)


class House:
    """Rows and blobs in a folder."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        self.folder = folder
        self.metadata = metadata
        self.blobs = LocalBlobs(folder / "blobs")
        self.intake = Intake(self.blobs, metadata, LimitsConfig())

    async def add_file(self, age_days: float, **changes: object) -> File:
        file = await seal(self.intake, request_lines(2))
        created_at_ms = now_ms() - round(age_days * DAY_MS)
        file = msgspec.structs.replace(file, created_at_ms=created_at_ms, **changes)
        await self.metadata.delete_file(file.id)
        await self.metadata.add_file(file)
        return file

    async def add_batch(self, file: File, state: State, ended_days: float | None = None) -> Batch:
        batch = Batch(
            id=f"batch-{random.getrandbits(60):x}",
            owner=OWNER,
            endpoint="/v1/chat/completions",
            input_file_id=file.id,
            input_size_bytes=1,
            state=state,
            created_at_ms=1,
            deadline_at_ms=1 << 60,
            ended_at_ms=None if ended_days is None else now_ms() - round(ended_days * DAY_MS),
        )
        await self.metadata.add_batch(batch)
        self.blobs.write(segment_key(batch.id, 1), b"journal")
        return batch

    async def is_there(self, file: File) -> bool:
        try:
            await self.metadata.get_file(file.id)
        except NotFound:
            return False
        return self.blobs.exists(content_key(file.id)) and self.blobs.exists(facts_key(file.id))

    async def age(self, ages: RetentionConfig = ALL) -> int:
        return await Retention(self.intake, self.metadata, ages=ages).remove_aged()


@pytest.fixture
async def house(rows: RowsPlace, tmp_path: Path) -> AsyncIterator[House]:
    metadata = await Metadata.open(rows.make_driver())
    yield House(tmp_path, metadata)
    await metadata.close()


async def test_by_default_nothing_ages(house: House) -> None:
    file = await house.add_file(10_000)
    await house.add_batch(file, State.COMPLETED, 10_000)
    assert await house.age(RetentionConfig()) == 0
    assert await house.is_there(file)


async def test_each_kind_has_its_own_age(house: House) -> None:
    young, old = await house.add_file(0.9), await house.add_file(1.1)
    young_output, old_output = await house.add_file(1.9, survey=b""), await house.add_file(2.1, survey=b"")
    young_batch = await house.add_batch(young, State.COMPLETED, 2.9)
    old_batch = await house.add_batch(young, State.FAILED, 3.1)
    assert await house.age() == 3
    assert [await house.is_there(file) for file in (young, old, young_output, old_output)] == [True, False, True, False]
    assert house.blobs.list_folders("journals") == [young_batch.id]
    assert house.blobs.list_folders("removed") == []
    assert (await house.metadata.get_batch(old_batch.id)).id == old_batch.id


async def test_what_cannot_go_now_keeps_nothing_else(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, other = await house.add_file(30), await house.add_file(20)
    batch = await house.add_batch(await house.add_file(0), State.COMPLETED, 100)
    remove, is_out = house.intake.remove, True

    async def remove_others(file_id: str) -> bool:
        if is_out and file_id == stuck.id:
            raise StoreUnavailable("Cannot remove it.")
        return await remove(file_id)

    monkeypatch.setattr(house.intake, "remove", remove_others)
    with pytest.raises(StoreUnavailable):
        await house.age()
    assert [await house.is_there(file) for file in (stuck, other)] == [True, False]
    assert batch.id not in house.blobs.list_folders("journals")
    is_out = False
    assert await house.age() == 1
    assert not await house.is_there(stuck)


async def test_a_time_of_its_own_counts_and_no_other(house: House) -> None:
    file = await house.add_file(100, expires_at_ms=now_ms() + DAY_MS)
    assert await house.age() == 0
    assert await house.is_there(file)


async def test_media_age_as_inputs_and_not_while_their_owner_has_a_batch(house: House) -> None:
    media = {"survey": b"", "purpose": "user_data"}
    young, old = await house.add_file(0.9, **media), await house.add_file(1.1, **media)
    foreign = await house.add_file(1.1, owner="another", **media)
    batch = await house.add_batch(await house.add_file(0), State.IN_PROGRESS)
    assert await house.age() == 1
    assert [await house.is_there(file) for file in (young, old, foreign)] == [True, True, False]
    await house.metadata.change_batch(batch.id, values={"state": State.COMPLETED, "ended_at_ms": now_ms()})
    assert await house.age() == 1
    assert [await house.is_there(file) for file in (young, old)] == [True, False]


@pytest.mark.parametrize("state", [state for state in State if not state.is_final])
async def test_what_an_unended_batch_needs_stays(house: House, state: State) -> None:
    file = await house.add_file(100)
    batch = await house.add_batch(file, state)
    assert await house.age() == 0
    assert not await house.intake.remove(file.id)
    await house.intake.remove_left(file.id)
    assert await house.is_there(file)
    assert house.blobs.list_folders("journals") == [batch.id]


async def test_a_journal_that_was_half_removed_is_gone_at_the_next_look(house: House) -> None:
    house.blobs.write("removed/1-journals-b/0000000001.segment", b"x")
    await house.age()
    assert house.blobs.list_folders("removed") == []


@pytest.mark.parametrize("round_number", range(5))
async def test_creates_and_removals_at_once_never_leave_a_batch_without_its_file(
    tmp_path: Path, round_number: int
) -> None:
    async with open_house(tmp_path, "http://127.0.0.1:1") as rooms:
        files = [await seal(rooms.intake, request_lines(1)) for _ in range(10)]
        jobs = [rooms.turns.create(BatchRequest(OWNER, "/v1/chat/completions", file.id)) for file in files]
        work = [*jobs, *(rooms.intake.remove(file.id) for file in files)]
        random.Random(round_number).shuffle(work)
        await asyncio.gather(*work, return_exceptions=True)
        for batch in await rooms.metadata.list_batches(OWNER, limit=100):
            await rooms.metadata.get_file(batch.input_file_id)
            assert rooms.blobs.exists(content_key(batch.input_file_id))


async def test_gc_lists_and_then_removes(house: House, rows: RowsPlace) -> None:
    old, young = await house.add_file(1.1), await house.add_file(0.5)
    batch = await house.add_batch(young, State.COMPLETED, 4)
    overrides = {"data_dir": str(house.folder), "retention.inputs_days": 1, "retention.journals_days": 3}
    config = load_config(environment={}, overrides=overrides | rows.settings)
    expected = {("input", old.id), ("journal", batch.id)}
    held = FolderLock(house.folder)
    listed = await collect(config, is_trial=True)
    assert {(each.kind, each.name) for each in listed} == expected
    assert sum(each.size_bytes for each in listed) > old.size_bytes
    with pytest.raises(StoreBusy):
        await collect(config, is_trial=False)
    assert await house.is_there(old)
    held.release()
    assert {(each.kind, each.name) for each in await collect(config, is_trial=False)} == expected
    assert not await house.is_there(old)
    assert await house.is_there(young)
    assert await collect(config, is_trial=False) == []


def test_the_size_is_what_lies_there(tmp_path: Path) -> None:
    blobs, size = LocalBlobs(tmp_path / "blobs"), DataSize(tmp_path)
    dice = random.Random(1)
    sizes: dict[str, int] = {}
    for number in range(50):
        key = f"{dice.choice(['files', 'journals'])}/{dice.randrange(8)}/{dice.choice(['content', 'parts/1', 'x'])}"
        if dice.random() < 0.3:
            blobs.delete(key)
            sizes.pop(key, None)
        else:
            blobs.write(key, b"x" * number)
            sizes[key] = number
        assert size.measure() == sum(sizes.values())


def test_a_look_at_much_is_not_made_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = DataSize(tmp_path)
    size.measure()
    seen = [size.is_fresh]
    spent_s = iter((0.0, 0.5))
    now_s = 100.0
    monkeypatch.setattr("backfill.store.data_size.time.thread_time", lambda: next(spent_s))
    monkeypatch.setattr("backfill.store.data_size.time.monotonic", lambda: now_s)
    size.measure()
    seen.append(size.is_fresh)
    now_s += 10.0
    assert [*seen, size.is_fresh] == [False, True, False]


async def test_a_full_data_directory_takes_no_file_and_goes_on_at_once_when_there_is_room(tmp_path: Path) -> None:
    async with open_house(tmp_path, "http://127.0.0.1:1", retention__data_size_bytes=2_000_000) as rooms:
        large = await seal(rooms.intake, request_lines(12_000))
        # One that has begun may use up what is left, and no more.
        with pytest.raises(StoreFull, match="may hold 2,000,000"):
            await seal(rooms.intake, request_lines(12_000))
        await asyncio.to_thread(rooms.intake.data_size.measure)
        await rooms.intake.remove(large.id)
        await asyncio.to_thread(rooms.intake.data_size.measure)
        await seal(rooms.intake, request_lines(10))
