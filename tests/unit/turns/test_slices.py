"""Batches that were cut: several holders each have slices, and the batch ends when the last of them is through."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from backfill.batch import Batch, BatchProblem, Counts, File, FileStatus, State
from backfill.config import LimitsConfig
from backfill.errors import TurnLost
from backfill.index import Survey
from backfill.store import Metadata, Slices
from backfill.turns import BatchRequest, Company, Duties, Stock, Turn, Turns
from tests.support.rows import RowsPlace
from tests.unit.turns.test_turns import CHAT, HOUR_MS, Clock

SLICES = 4
LEASE_MS = 30_000


class World:
    """A database, two processes that share it, and a clock."""

    def __init__(self, metadata: Metadata) -> None:
        self.clock = Clock()
        self.metadata = metadata
        self.slices = Slices(metadata)
        self.one, self.other = (
            Turns(
                metadata,
                LimitsConfig(),
                self.clock,
                company=Company(Duties(), None, f"place:{name}", "place:"),
                count_slices=lambda lines: SLICES if lines > 10 else 0,
            )
            for name in ("one", "other")
        )

    async def start(self, lines: int = 100, owner: str = "o") -> str:
        self.clock.now_ms += 1
        file = File(
            id=f"file-{self.clock.now_ms}",
            owner=owner,
            filename="a",
            purpose="batch-api",
            status=FileStatus.SEALED,
            created_at_ms=self.clock.now_ms,
            size_bytes=9,
            line_count=lines,
            survey=msgspec.json.encode(Survey(lines=lines, models=("m",))),
        )
        await self.metadata.add_file(file)
        batch = await self.one.create(BatchRequest(owner, CHAT, file.id))
        await self.one.admit_waiting()
        return batch.id

    async def batch(self, batch_id: str) -> Batch:
        return await self.metadata.get_batch(batch_id)

    async def state(self, batch_id: str) -> State:
        return (await self.batch(batch_id)).state

    async def take_all(self, turns: Turns) -> list[Turn]:
        """What one process gets that asks until there is nothing."""
        mine: list[Turn] = []
        while taken := await turns.take(9):
            mine += taken
        return mine


@pytest.fixture
async def world(rows: RowsPlace) -> AsyncIterator[World]:
    metadata = await Metadata.open(rows.make_driver())
    yield World(metadata)
    await metadata.close()


def numbers(turns: Sequence[Turn]) -> list[int]:
    return [turn.slice_number for turn in turns]


async def test_only_a_large_batch_is_cut_when_it_is_admitted(world: World) -> None:
    large, small = await world.start(), await world.start(lines=10)
    assert [(await world.batch(batch_id)).slices for batch_id in (large, small)] == [SLICES, 0]
    assert {(turn.batch.id, turn.slice_number) for turn in await world.one.take(9)} == {(large, 1), (small, 0)}


async def test_a_batch_that_is_paused_while_it_waits_is_cut_too(world: World) -> None:
    world.clock.now_ms += 1
    file = File(
        id="f",
        owner="o",
        filename="a",
        purpose="batch-api",
        status=FileStatus.SEALED,
        created_at_ms=1,
        line_count=50,
        survey=msgspec.json.encode(Survey(lines=50, models=("m",))),
    )
    await world.metadata.add_file(file)
    batch = await world.one.create(BatchRequest("o", CHAT, "f"))
    await world.one.pause(batch.id, "o")
    assert (await world.batch(batch.id)).slices == SLICES
    assert await world.one.take(9) == []
    await world.one.resume(batch.id, "o")
    assert numbers(await world.one.take(9)) == [1]


async def test_two_processes_share_a_batch_until_none_of_its_slices_is_free(world: World) -> None:
    batch_id = await world.start()
    (first,) = await world.one.take(9)
    (second,) = await world.other.take(9)
    assert (first.name, second.name) == (f"{batch_id}/1", f"{batch_id}/2")
    assert (first.epoch, first.is_takeover) == (1, False)
    # Of one that it works on a process takes more only when it asks for that.
    assert await world.one.take(9, [first]) == []
    assert numbers(await world.one.take_slices(first.batch, 9, [1])) == [3, 4]
    assert await world.other.take(9) == []
    assert await world.other.take_slices(second.batch, 9, [2]) == []
    assert await world.one.still_running([first, second]) == {first.name, second.name}


async def test_who_has_something_writes_nothing_unless_there_is_more_for_him(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await world.start()
    (mine,) = await world.one.take(9)
    second = await world.start(owner="p")
    claims: list[object] = []
    claim = Metadata.claim

    async def note(metadata: Metadata, wanted: Any, *more: Any) -> Any:
        claims.append(wanted)
        return await claim(metadata, wanted, *more)

    monkeypatch.setattr(Metadata, "claim", note)
    stock = Stock({"o": 50, "p": 50}, 50)
    assert await world.one.take(9, [mine], stock=stock) == []
    assert claims == []
    (more,) = await world.one.take(9, [mine], stock=Stock({"o": 50}, 50))
    assert (mine.batch.id, more.batch.id) == (first, second)
    assert len(claims) == 1


async def test_a_slice_that_is_through_rings_no_bell_until_it_is_the_last(world: World) -> None:
    await world.start()
    turns = await world.take_all(world.one)
    rung: list[int] = []
    world.one.ring_bells = lambda: rung.append(1)  # type: ignore[method-assign]
    for turn in turns[:-1]:
        await world.one.give_back(turn, drained=True)
    assert rung == []
    await world.one.give_back(turns[-1], drained=True)
    assert rung == [1]


async def test_a_slice_that_is_given_back_is_free_at_once_and_has_a_new_epoch(world: World) -> None:
    await world.start()
    turns = await world.take_all(world.one)
    assert numbers(turns) == [1, 2, 3, 4]
    await world.one.give_back(turns[2], drained=False)
    (again,) = await world.other.take(9)
    assert (again.slice_number, again.epoch, again.is_takeover) == (3, 2, False)
    with pytest.raises(TurnLost):
        await world.one.give_back(turns[2], drained=True)


async def test_a_lease_that_runs_out_frees_its_slice_and_the_old_holder_learns_of_it(world: World) -> None:
    await world.start()
    lost, kept = await world.take_all(world.one), await world.take_all(world.other)
    assert kept == []
    world.clock.now_ms += LEASE_MS // 2
    await world.one.renew(lost[1:])
    world.clock.now_ms += LEASE_MS // 2 + 1
    (taken,) = await world.other.take(9)
    assert (taken.slice_number, taken.epoch, taken.is_takeover) == (1, 2, True)
    assert await world.one.still_running(lost) == {turn.name for turn in lost[1:]}
    with pytest.raises(TurnLost):
        await world.one.give_back(lost[0], drained=True)
    # The look at a batch without a free slice has put right when to look again.
    assert await world.other.take(9) == []
    row = await world.batch(taken.batch.id)
    assert row.holder is not None


async def test_the_batch_is_gathered_when_its_last_slice_is_drained_whoever_has_it(world: World) -> None:
    batch_id = await world.start()
    (first,) = await world.one.take(1)
    others = await world.take_all(world.other)
    assert numbers(others) == [2, 3, 4]
    assert not await world.other.give_back(others[1], drained=True)
    assert not await world.one.give_back(first, drained=True)
    assert not await world.other.give_back(others[2], drained=True)
    assert await world.one.find_closable() == []
    assert await world.state(batch_id) is State.IN_PROGRESS
    assert await world.other.give_back(others[0], drained=True)
    assert await world.state(batch_id) is State.FINALIZING
    assert await world.slices.list_drained(batch_id) == [3, 1, 4, 2]
    found = await world.one.find_closable()
    (closing,) = await world.one.take_closable(found)
    assert (closing.slice_number, closing.is_takeover, closing.overdue) == (0, False, ())
    assert await world.other.take_closable(found) == []
    assert await world.other.find_closable() == []
    assert await world.one.close(closing.batch, Counts(total=100), None, None)


async def test_a_slice_that_is_given_back_twice_as_drained_counts_once(world: World) -> None:
    """The first try may have been written although it seemed to fail."""
    batch_id = await world.start()
    turns = await world.take_all(world.one)
    for turn in (turns[0], turns[0], turns[3], turns[0], turns[1]):
        assert not await world.one.give_back(turn, drained=True)
    assert await world.slices.list_drained(batch_id) == [1, 4, 2]
    assert await world.one.give_back(turns[2], drained=True)
    assert await world.one.give_back(turns[2], drained=True)
    assert await world.state(batch_id) is State.FINALIZING


@pytest.mark.parametrize("state", [State.CANCELLING, State.EXPIRING])
async def test_a_batch_that_is_to_end_is_closed_when_nobody_holds_a_slice(world: World, state: State) -> None:
    batch_id = await world.start()
    mine, theirs = (await world.one.take(1))[0], await world.take_all(world.other)
    if state is State.CANCELLING:
        await world.one.cancel(batch_id, "o")
    else:
        world.clock.now_ms += 24 * HOUR_MS
        await world.one.renew([mine])
        await world.other.renew(theirs)
        await world.one.expire_due()
    assert await world.state(batch_id) is state
    assert await world.one.still_running([mine]) == set()
    assert await world.other.still_running(theirs) == set()
    await world.one.give_back(mine, drained=True)
    # Nor is a free slice worked on any more.
    assert await world.one.take(9) == []
    assert await world.one.take_slices(mine.batch, 9, []) == []
    for turn in theirs:
        assert await world.one.find_closable() == []
        assert await world.one.take_closable([await world.batch(batch_id)]) == []
        await world.other.give_back(turn, drained=False)
    (closing,) = await world.one.take_closable(await world.one.find_closable())
    assert closing.overdue == ()


async def test_slices_of_dead_holders_are_fenced_before_the_batch_is_closed(world: World) -> None:
    batch_id = await world.start()
    mine, dead = await world.one.take(1), await world.take_all(world.other)
    await world.one.cancel(batch_id, "o")
    await world.one.give_back(mine[0], drained=False)
    world.clock.now_ms += LEASE_MS + 1
    (closing,) = await world.one.take_closable(await world.one.find_closable())
    assert closing.is_takeover
    assert closing.overdue == ((2, 2), (3, 2), (4, 2))
    # They come back too late.
    for turn in dead:
        with pytest.raises(TurnLost):
            await world.other.give_back(turn, drained=True)
    # Whoever was to close it dies too, before he has fenced them out: the next one has to.
    world.clock.now_ms += LEASE_MS + 1
    (again,) = await world.other.take_closable(await world.other.find_closable())
    assert again.overdue == ((2, 3), (3, 3), (4, 3))
    await world.other.note_fenced(again)
    await world.other.let_go(again, is_fenced=True)
    (third,) = await world.one.take_closable(await world.one.find_closable())
    assert third.overdue == ()
    assert await world.slices.list_drained(batch_id) == []


async def test_a_slice_whose_holder_could_not_fence_stays_a_takeover(world: World) -> None:
    await world.start()
    await world.take_all(world.one)
    world.clock.now_ms += LEASE_MS + 1
    (taken,) = await world.other.take(1)
    assert taken.is_takeover
    await world.other.give_back(taken, drained=False, is_fenced=False)
    (again,) = await world.one.take(1)
    assert (again.slice_number, again.epoch, again.is_takeover) == (1, 3, True)


async def test_a_paused_batch_keeps_its_slices_and_goes_on(world: World) -> None:
    batch_id = await world.start()
    mine, theirs = await world.one.take(1), await world.take_all(world.other)
    await world.one.pause(batch_id, "o")
    assert await world.one.still_running(mine) == set()
    assert await world.one.still_paused(mine) == {mine[0].name}
    await world.one.give_back(mine[0], drained=False)
    assert await world.one.take(9) == []
    for turn in theirs:
        await world.other.give_back(turn, drained=True)
    await world.one.resume(batch_id, "o")
    (again,) = await world.other.take(9)
    assert again.slice_number == 1
    await world.one.pause(batch_id, "o")
    assert await world.other.give_back(again, drained=True)
    assert await world.state(batch_id) is State.FINALIZING


async def test_a_batch_whose_input_is_lost_fails_for_all_holders(world: World) -> None:
    batch_id = await world.start()
    (mine,), (theirs,) = await world.one.take(1), await world.other.take(1)
    problem = BatchProblem("input_lost", "It is gone.")
    assert await world.one.fail_turn(mine, problem, is_fenced=True)
    assert await world.state(batch_id) is State.FAILING
    assert not await world.other.fail_turn(theirs, problem, is_fenced=True)
    assert await world.other.still_running([theirs]) == set()
    assert await world.one.find_closable() == []
    await world.other.give_back(theirs, drained=False)
    assert [batch.id for batch in await world.one.find_closable()] == [batch_id]
    assert (await world.batch(batch_id)).problems == (problem,)


async def test_whoever_lost_his_slice_fails_nothing(world: World) -> None:
    batch_id = await world.start()
    (lost,) = await world.one.take(1)
    world.clock.now_ms += LEASE_MS + 1
    assert numbers(await world.other.take(1)) == [1]
    assert not await world.one.fail_turn(lost, BatchProblem("input_lost", "It is gone."), is_fenced=True)
    assert await world.state(batch_id) is State.IN_PROGRESS


async def test_a_process_that_is_alone_frees_the_slices_of_the_dead(world: World) -> None:
    await world.start()
    await world.take_all(world.one)
    assert await world.other.take(9) == []
    await world.other.reclaim()
    again = await world.take_all(world.other)
    assert [(turn.slice_number, turn.epoch, turn.is_takeover) for turn in again] == [
        (number, 2, False) for number in range(1, SLICES + 1)
    ]


async def test_large_batches_keep_nobody_elses_from_his_turn(world: World) -> None:
    large = await world.start()
    mine = await world.take_all(world.one)
    small = await world.start(lines=5, owner="p")
    turns = await world.one.take(2, mine)
    assert [turn.batch.id for turn in turns] == [small]
    # Four open slices are one batch of its owner.
    second = await world.start(lines=5)
    assert [turn.batch.id for turn in await world.one.take(1, [*mine, *turns])] == [second]
    assert {turn.batch.id for turn in mine} == {large}


async def test_what_changes_a_row_with_its_slices_is_told(world: World) -> None:
    told: list[Any] = []

    class Watcher:
        def note_added(self, batch: Batch) -> None: ...

        def note_changed(self, batch_id: str, values: Any) -> None:
            told.append((batch_id, values.get("state")))

        def forget(self) -> None: ...

    batch_id = await world.start()
    world.metadata.watch_batches(Watcher())
    turns = await world.take_all(world.one)
    await asyncio.gather(*(world.one.give_back(turn, drained=True) for turn in turns))
    assert told == [(batch_id, State.FINALIZING)]


async def test_slices_that_are_none_for_one_process_stay_free_for_others(world: World) -> None:
    batch_id = await world.start()
    mine = await world.one.take(9) + await world.one.take_slices(await world.batch(batch_id), SLICES, [1])
    assert numbers(mine) == [1, 2, 3, 4]
    for turn in mine:
        await world.one.give_back(turn, drained=False)
    batch = await world.batch(batch_id)
    assert await world.one.take_slices(batch, SLICES, [1, 2, 3, 4]) == []
    assert numbers(await world.one.take_slices(batch, SLICES, [1, 2, 4])) == [3]
    assert numbers(await world.other.take(9)) == [1]


async def test_batches_that_are_passed_over_hide_no_others(world: World) -> None:
    passed = [await world.start(lines=5, owner=owner) for owner in "aaaabbbb"]
    wanted = {await world.start(lines=5, owner=owner) for owner in "ab"}
    assert {turn.batch.id for turn in await world.one.take(2, passed_over=passed)} == wanted
    assert await world.one.take(2, passed_over=passed) == []
    assert len(await world.other.take(9)) == 8
