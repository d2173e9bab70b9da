"""Rows: what is written is read back, and a change happens only from the state that it expects."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from backfill.batch import Batch, BatchProblem, Counts, File, FileStatus, State, Usage
from backfill.errors import NotFound, StoreUnavailable
from backfill.store import Metadata, Wanted
from backfill.store.turn_order import BATCHES_IN_STATE, _make_looks
from tests.support.rows import RowsPlace


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    opened = await Metadata.open(rows.make_driver())
    yield opened
    await opened.close()


def make_file(number: int, owner: str = "o", **facts: object) -> File:
    members: dict[str, object] = {"filename": "a.jsonl", "purpose": "batch-api", "status": FileStatus.RESERVED}
    return File(id=f"file-{number}", owner=owner, created_at_ms=1000 + number // 2, **(members | facts))  # type: ignore[arg-type]


def make_batch(number: int, owner: str = "o", **facts: object) -> Batch:
    members: dict[str, object] = {"state": State.IN_PROGRESS, "deadline_at_ms": 10_000 - number}
    return Batch(
        id=f"batch-{number}",
        owner=owner,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        input_size_bytes=3,
        created_at_ms=1000 + number,
        **(members | facts),  # type: ignore[arg-type]
    )


async def test_rows_come_back_as_they_were(metadata: Metadata) -> None:
    file = make_file(1, size_bytes=5, survey=b"{}", sha256="ab")
    batch = make_batch(
        1,
        problems=(BatchProblem("code", "words", line=3),),
        problem_count=7,
        counts=Counts(9, 1, 2, Usage(1, 2, 3)),
        metadata={"k": "v"},
    )
    await metadata.add_file(file)
    await metadata.add_batch(batch)
    assert await metadata.get_file("file-1") == file
    assert await metadata.get_batch("batch-1") == batch


async def test_what_belongs_to_another_does_not_exist(metadata: Metadata) -> None:
    await metadata.add_file(make_file(1))
    await metadata.add_batch(make_batch(1))
    for wrong in (metadata.get_file("file-1", "x"), metadata.get_file("file-9", "o")):
        with pytest.raises(NotFound, match="No such file"):
            await wrong
    with pytest.raises(NotFound, match="No such batch"):
        await metadata.get_batch("batch-1", "x")
    assert await metadata.list_files("x", limit=10) == []
    assert await metadata.list_batches("x", limit=10) == []


async def test_lists_page_without_gaps_even_at_equal_times(metadata: Metadata) -> None:
    for number in range(7):
        await metadata.add_file(make_file(number))
    for newest_first in (True, False):
        seen: list[str] = []
        while page := await metadata.list_files(
            "o", after=seen[-1] if seen else None, limit=2, newest_first=newest_first
        ):
            seen += [file.id for file in page]
        expected = [f"file-{number}" for number in range(7)]
        assert seen == (expected[::-1] if newest_first else expected)


async def test_a_file_is_sealed_once(metadata: Metadata) -> None:
    await metadata.add_file(make_file(1))
    sealed = make_file(1, status=FileStatus.SEALED, size_bytes=5)
    assert await metadata.seal_file(sealed)
    assert not await metadata.seal_file(msgspec.structs.replace(sealed, size_bytes=6))
    assert (await metadata.get_file("file-1")).size_bytes == 5


async def test_a_change_needs_the_state_and_the_epoch_it_expects(metadata: Metadata) -> None:
    await metadata.add_batch(make_batch(1))
    stale = {"state": State.FINALIZING}
    assert not await metadata.change_batch("batch-1", state=State.VALIDATING, values=stale)
    assert not await metadata.change_batch("batch-1", epoch=4, values=stale)
    assert await metadata.change_batch(
        "batch-1", state=State.IN_PROGRESS, epoch=0, values=stale, new_files=[make_file(5)]
    )
    assert (await metadata.get_batch("batch-1")).state is State.FINALIZING
    assert (await metadata.get_file("file-5")).id == "file-5"


async def test_of_many_who_change_at_once_one_wins(metadata: Metadata) -> None:
    await metadata.add_batch(make_batch(1))
    changes = (metadata.change_batch("batch-1", epoch=0, values={"epoch": 1}) for _ in range(20))
    assert sorted(await asyncio.gather(*changes)) == [False] * 19 + [True]


async def test_a_failed_change_adds_no_file(metadata: Metadata) -> None:
    await metadata.add_batch(make_batch(1))
    assert not await metadata.change_batch("batch-1", epoch=9, values={"epoch": 1}, new_files=[make_file(5)])
    with pytest.raises(NotFound):
        await metadata.get_file("file-5")


async def test_batches_are_found_by_deadline_and_only_when_free(metadata: Metadata) -> None:
    for number in range(3):
        await metadata.add_batch(make_batch(number))
    await metadata.change_batch("batch-1", values={"holder": "h", "lease_until_ms": 500})
    find = metadata.find_batches
    assert [b.id for b in await find([State.IN_PROGRESS])] == ["batch-2", "batch-1", "batch-0"]
    assert [b.id for b in await find([State.IN_PROGRESS], free_at_ms=400)] == ["batch-2", "batch-0"]
    assert [b.id for b in await find([State.IN_PROGRESS], free_at_ms=501)] == ["batch-2", "batch-1", "batch-0"]
    assert [b.id for b in await find([State.IN_PROGRESS], due_at_ms=9999)] == ["batch-2", "batch-1"]
    await metadata.free_turns()
    assert len(await find([State.IN_PROGRESS], free_at_ms=400)) == 3


async def test_a_file_in_use_names_its_batch(metadata: Metadata) -> None:
    await metadata.add_batch(make_batch(1))
    assert await metadata.uses_file("file-1") == "batch-1"
    await metadata.change_batch("batch-1", values={"state": State.COMPLETED})
    assert await metadata.uses_file("file-1") is None


async def test_a_secret_stays_the_same_over_restarts(rows: RowsPlace) -> None:
    first = await Metadata.open(rows.make_driver())
    secret = await first.get_secret("name")
    assert len(secret) == 32
    assert await first.get_secret("other") != secret
    assert await first.get_secret("given", b"this") == b"this"
    await first.close()
    second = await Metadata.open(rows.make_driver())
    assert await second.get_secret("name") == secret
    assert await second.get_secret("given", b"that") == b"this"
    await second.set_secret("given", b"that")
    assert await second.get_secret("given") == b"that"
    await second.close()


async def test_a_database_in_a_folder_is_its_users_alone(tmp_path: Path) -> None:
    await (await Metadata.open(tmp_path / "m.db")).close()
    assert (tmp_path / "m.db").stat().st_mode & 0o077 == 0


async def test_a_database_that_is_none_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "m.db").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await Metadata.open(tmp_path / "m.db")


async def add_waiting(metadata: Metadata, count: int) -> None:
    batches = (make_batch(number, f"owner-{number % 7}", deadline_at_ms=number) for number in range(count))
    await asyncio.gather(*map(metadata.add_batch, batches))


async def test_the_next_turn_is_found_by_the_index_and_in_its_order(metadata: Metadata, rows: RowsPlace) -> None:
    assert await metadata.find_batches([State.IN_PROGRESS]) == []
    await add_waiting(metadata, 1000)
    values = {"in_state": "in_progress", "due_at": 10_000, "free_at": 1, "most": 1}
    steps = rows.explain(BATCHES_IN_STATE, values)
    if rows.name == "sqlite":
        assert len(steps) == 1
        assert "USING INDEX batches_by_turn (state=? AND deadline_at_ms<?)" in steps[0]
    else:
        assert any("Index Scan using batches_by_turn on batches" in step for step in steps)
        assert not any("Seq Scan" in step or "Sort" in step for step in steps)


@pytest.mark.parametrize("passes_over", [False, True])
async def test_an_owner_s_next_turn_is_found_without_reading_the_rows_of_others(
    metadata: Metadata, rows: RowsPlace, *, passes_over: bool
) -> None:
    assert await metadata.find_next(Wanted(State.IN_PROGRESS, 1, "", 1, 1, 1)) == ([], [])
    await add_waiting(metadata, 1000)
    values = {"in_state": "in_progress", "free_at": 1, "after": "", "most": 1}
    values |= {"besides": '["batch-1"]'} if passes_over else {}
    look = _make_looks(rows.name, passes_over=passes_over, some_not_due=False, locks=True).in_round
    if rows.name == "sqlite":
        steps = rows.explain(look, values)
        looks = [step for step in steps if "batches" in step]
        assert all("SEARCH batches USING INDEX" in step for step in looks)
        assert not any("TEMP B-TREE" in step for step in steps)
        assert sum("batches_by_owner_turn (state=? AND owner" in step for step in looks) == 3
    else:
        looks = [step for step in rows.explain(look, values) if " on batches" in step]
        assert all("Index Scan using batches_by_owner_turn" in step for step in looks)
    assert len(looks) >= 4


async def test_owners_take_turns_and_of_each_the_highest_priority_is_first_then_the_earliest_deadline(
    metadata: Metadata,
) -> None:
    for number, (owner, priority) in enumerate([("a", 0), ("a", 0), ("a", 2), ("b", 0), ("c", 1), ("c", 1)]):
        await metadata.add_batch(msgspec.structs.replace(make_batch(number), owner=owner, priority=priority))
    await metadata.change_batch("batch-3", values={"holder": "h", "lease_until_ms": 500})

    async def find(after: str, most: int, free_at_ms: int = 400) -> list[str]:
        _, found = await metadata.find_next(Wanted(State.IN_PROGRESS, free_at_ms, after, most, most, most))
        return [batch.id.removeprefix("batch-") for batch in found]

    assert await find("", 1) == ["2"]
    assert await find("a", 1) == ["5"]
    assert await find("c", 1) == ["2"]
    assert await find("a", 2) == ["5", "2"]
    assert await find("", 3, free_at_ms=501) == ["2", "3", "5"]
    assert await find("b", 6) == ["5", "2", "4", "1", "0"]
    assert await metadata.find_next(Wanted(State.VALIDATING, 1, "", 5, 5, 5)) == ([], [])


async def test_what_is_not_due_hides_nothing_that_is_and_has_its_turn_in_the_round(metadata: Metadata) -> None:
    for number in range(3):
        batch = make_batch(number, f"owner-{number}", deadline_at_ms=number)
        await metadata.add_batch(batch)
    wanted = Wanted(State.IN_PROGRESS, 1, "", 3, 1, 3)
    for not_due, first in (((), "batch-0"), (("batch-0", "batch-1"), "batch-2")):
        due_first, in_round = await metadata.find_next(wanted._replace(not_due=not_due))
        assert [batch.id for batch in due_first] == [first]
        assert [batch.id for batch in in_round] == ["batch-0", "batch-1", "batch-2"]
    both = wanted._replace(not_due=("batch-0",), besides=("batch-1",))
    due_first, in_round = await metadata.find_next(both)
    assert [[batch.id for batch in found] for found in (due_first, in_round)] == [["batch-2"], ["batch-0", "batch-2"]]


async def test_no_more_are_found_than_asked_for(metadata: Metadata) -> None:
    for number in range(5):
        await metadata.add_batch(make_batch(number))
    find = metadata.find_batches
    assert [b.id for b in await find([State.IN_PROGRESS], limit=2)] == ["batch-4", "batch-3"]
    assert [b.id for b in await find([State.IN_PROGRESS], limit=2, besides=["batch-4"])] == ["batch-3", "batch-2"]
    await metadata.change_batch("batch-0", values={"state": State.FINALIZING})
    await metadata.change_batch("batch-1", values={"state": State.EXPIRING})
    assert [b.id for b in await find([State.FINALIZING, State.EXPIRING], limit=1)] == ["batch-1"]
    assert await metadata.find_epochs(State.IN_PROGRESS, ["batch-1", "batch-2"]) == {"batch-2": 0}
