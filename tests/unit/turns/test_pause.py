"""A paused batch keeps what it has, takes no turn, and ends in every way in which others do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backfill.batch import TRANSITIONS, Batch, BatchProblem, Counts, Event, File, FileStatus, State
from backfill.config import LimitsConfig
from backfill.errors import Conflict, NotFound, TurnLost
from backfill.index import Survey
from backfill.store import Metadata
from backfill.turns import BatchRequest, Turn, Turns

CHAT = "/v1/chat/completions"
PROBLEM = BatchProblem("input_lost", "The input is lost.")


class World:
    """A database, a process that works on it, and a clock."""

    def __init__(self, metadata: Metadata) -> None:
        self.now_ms = 1_000_000
        self.metadata = metadata
        self.turns = Turns(metadata, LimitsConfig(), lambda: self.now_ms)

    async def create(self, survey: Survey | None = None) -> str:
        self.now_ms += 1
        chosen = survey or Survey(lines=3, models=("m",))
        file = File(
            id=f"file-{self.now_ms}",
            owner="o",
            filename="a",
            purpose="batch-api",
            status=FileStatus.SEALED,
            created_at_ms=self.now_ms,
            size_bytes=9,
            line_count=chosen.lines,
            survey=msgspec.json.encode(chosen),
        )
        await self.metadata.add_file(file)
        return (await self.turns.create(BatchRequest("o", CHAT, file.id))).id

    async def start(self) -> str:
        batch_id = await self.create()
        await self.turns.admit_waiting()
        return batch_id

    async def get(self, batch_id: str) -> Batch:
        return await self.metadata.get_batch(batch_id)

    async def state(self, batch_id: str) -> State:
        return (await self.get(batch_id)).state


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    metadata = await Metadata.open(tmp_path / "m.db")
    yield World(metadata)
    await metadata.close()


async def test_a_paused_batch_takes_no_turn_until_it_is_resumed(world: World) -> None:
    batch_id = await world.start()
    paused = await world.turns.pause(batch_id, "o")
    assert (paused.state, paused.paused_at_ms) == (State.PAUSED, world.now_ms)
    assert await world.get(batch_id) == paused
    assert await world.turns.take(9) == []
    world.now_ms += 5
    assert (await world.turns.pause(batch_id, "o")).paused_at_ms == paused.paused_at_ms
    resumed = await world.turns.resume(batch_id, "o")
    assert (resumed.state, resumed.paused_at_ms) == (State.IN_PROGRESS, None)
    assert await world.turns.resume(batch_id, "o") == resumed
    assert len(await world.turns.take(9)) == 1


async def test_what_is_somebody_elses_is_not_there(world: World) -> None:
    batch_id = await world.start()
    for move in (world.turns.pause, world.turns.resume):
        with pytest.raises(NotFound):
            await move(batch_id, "someone else")


async def test_a_batch_that_waits_is_judged_and_begins_paused(world: World) -> None:
    batch_id = await world.create()
    assert (await world.turns.resume(batch_id, "o")).state is State.VALIDATING
    paused = await world.turns.pause(batch_id, "o")
    assert (paused.state, paused.started_at_ms, paused.paused_at_ms) == (State.PAUSED, world.now_ms, world.now_ms)
    await world.turns.admit_waiting()
    assert await world.state(batch_id) is State.PAUSED


async def test_no_turn_is_taken_between_the_admission_and_the_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await world.create()
    change, seen = world.metadata.change_batch, []

    async def look_after_each(*arguments: object, **options: object) -> bool:
        done: bool = await change(*arguments, **options)  # type: ignore[arg-type]
        seen.append(await world.state(batch_id))
        return done

    monkeypatch.setattr(world.metadata, "change_batch", look_after_each)
    await world.turns.pause(batch_id, "o")
    assert seen == [State.PAUSED]


async def test_pausing_a_batch_that_cannot_run_rejects_it(world: World) -> None:
    survey = Survey(lines=3, problems=(BatchProblem("bad", "bad", line=1),), problem_count=1)
    batch_id = await world.create(survey)
    with pytest.raises(Conflict, match="A batch that is failed cannot be paused"):
        await world.turns.pause(batch_id, "o")
    assert await world.state(batch_id) is State.FAILED


async def test_pausing_a_batch_whose_input_is_gone_rejects_it(world: World) -> None:
    batch_id = await world.create()
    await world.metadata.delete_file((await world.get(batch_id)).input_file_id)
    with pytest.raises(Conflict):
        await world.turns.pause(batch_id, "o")
    assert (await world.get(batch_id)).problems[0].code == "file_not_found"


async def end(world: World, batch_id: str, event: Event) -> State:
    if event is Event.CANCEL:
        await world.turns.cancel(batch_id, "o")
    elif event is Event.EXPIRE:
        world.now_ms = (await world.get(batch_id)).deadline_at_ms
        await world.turns.expire_due()
    else:
        assert await world.turns.fail(await world.get(batch_id), PROBLEM)
    (closing,) = await world.turns.find_closable()
    assert await world.turns.close(closing, Counts(3, 1, 2), None, None)
    return await world.state(batch_id)


@pytest.mark.parametrize(
    ("event", "expected"),
    [(Event.CANCEL, State.CANCELLED), (Event.EXPIRE, State.EXPIRED), (Event.FAIL, State.FAILED)],
)
async def test_a_paused_batch_ends_as_others_do(world: World, event: Event, expected: State) -> None:
    batch_id = await world.start()
    await world.turns.pause(batch_id, "o")
    assert await end(world, batch_id, event) is expected
    for move in (world.turns.pause, world.turns.resume):
        with pytest.raises(Conflict, match=f"A batch that is {expected} cannot be"):
            await move(batch_id, "o")


async def test_if_what_was_in_flight_was_the_rest_it_is_gathered(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(1)
    await world.turns.pause(batch_id, "o")
    assert await world.turns.still_running([turn]) == set()
    assert await world.turns.still_paused([turn]) == {batch_id}
    await world.turns.give_back(turn, drained=True)
    assert await world.state(batch_id) is State.FINALIZING
    with pytest.raises(Conflict, match="finalizing cannot be resumed"):
        await world.turns.resume(batch_id, "o")


async def test_the_holder_of_a_turn_fails_a_batch_that_was_paused_under_it(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(1)
    await world.turns.pause(batch_id, "o")
    assert await world.turns.fail(turn.batch, PROBLEM, epoch=turn.epoch)
    assert await world.state(batch_id) is State.FAILING


async def test_it_stays_paused_whoever_comes_next(world: World) -> None:
    batch_id = await world.start()
    await world.turns.take(1)
    await world.turns.pause(batch_id, "o")
    later = Turns(world.metadata, LimitsConfig(), lambda: world.now_ms)
    await later.reclaim()
    assert await later.take(9) == []
    await later.resume(batch_id, "o")
    (turn,) = await later.take(9)
    assert turn.epoch == 2


async def test_whoever_watches_hears_of_a_pause_before_it_is_told(world: World) -> None:
    batch_id = await world.start()
    heard: list[str] = []
    world.turns.watch_pauses(heard.append)
    await world.turns.pause(batch_id, "o")
    assert heard == [batch_id]


MOVES = {
    "pause": {State.PAUSED},
    "resume": {State.VALIDATING, State.IN_PROGRESS},
    "cancel": {State.CANCELLING, State.CANCELLED},
}
"""Move -> where a batch is after it, and where it does nothing."""


class Lives(RuleBasedStateMachine):
    """Whatever is done to one batch, in whatever order: its row follows the one table, and a turn is held by one."""

    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._turn: Turn | None = None
        self._taken = 0

    def do(self, work: Awaitable[object]) -> object:
        async def wait() -> object:
            return await work

        return self._loop.run_until_complete(wait())

    @initialize()
    def begin(self) -> None:
        self._path = self.folder / "lives.db"
        for name in (self._path, *self.folder.glob("lives.db-*")):
            name.unlink(missing_ok=True)
        metadata = self.do(Metadata.open(self._path))
        assert isinstance(metadata, Metadata)
        self._world = World(metadata)
        self._batch_id = str(self.do(self._world.create()))
        self._state = State.VALIDATING

    def teardown(self) -> None:
        self.do(self._world.metadata.close())
        self._loop.close()

    def find(self) -> Batch:
        found = self.do(self._world.get(self._batch_id))
        assert isinstance(found, Batch)
        return found

    @rule(name=st.sampled_from(sorted(MOVES)))
    def move(self, name: str) -> None:
        before = self._state
        may = before in MOVES[name] or any(
            (state, Event(name)) in TRANSITIONS for state in (before, TRANSITIONS.get((before, Event.ADMIT)))
        )
        method: Callable[[str, str], Awaitable[Batch]] = getattr(self._world.turns, name)
        try:
            answered = self.do(method(self._batch_id, "o"))
        except Conflict:
            assert not may, (before, name)
            return
        assert may, (before, name)
        assert isinstance(answered, Batch)
        assert answered.state in MOVES[name]
        self._state = answered.state

    @rule()
    def admit(self) -> None:
        self.do(self._world.turns.admit_waiting())
        self._state = TRANSITIONS.get((self._state, Event.ADMIT), self._state)

    @rule()
    def expire(self) -> None:
        self._world.now_ms = max(self._world.now_ms, self.find().deadline_at_ms)
        if self._turn is not None:
            # As its holder does all the while.
            self.do(self._world.turns.renew([self._turn]))
        self.do(self._world.turns.expire_due())
        self._state = TRANSITIONS.get((self._state, Event.EXPIRE), self._state)

    @precondition(lambda self: self._turn is None)
    @rule()
    def take(self) -> None:
        taken = self.do(self._world.turns.take(1))
        assert isinstance(taken, list)
        assert bool(taken) is (self._state is State.IN_PROGRESS)
        if taken:
            self._turn = taken[0]
            self._taken += 1

    @precondition(lambda self: self._turn is not None)
    @rule(drained=st.booleans())
    def give_back(self, drained: bool) -> None:
        assert self._turn is not None
        try:
            self.do(self._world.turns.give_back(self._turn, drained=drained))
        except TurnLost:
            raise AssertionError("nobody else takes turns") from None
        self._turn = None
        if drained:
            self._state = TRANSITIONS.get((self._state, Event.DRAIN), self._state)

    @precondition(lambda self: self._turn is not None)
    @rule()
    def fail(self) -> None:
        assert self._turn is not None
        may = self._state in (State.IN_PROGRESS, State.PAUSED)
        assert self.do(self._world.turns.fail(self._turn.batch, PROBLEM, epoch=self._turn.epoch)) is may
        if may:
            self._state, self._turn = State.FAILING, None

    @rule()
    def close(self) -> None:
        closable = self.do(self._world.turns.find_closable())
        assert isinstance(closable, list)
        assert bool(closable) is (self._state.is_closing and self._turn is None)
        for batch in closable:
            self.do(self._world.turns.close(batch, Counts(3, 3, 0), None, None))
            self._state = TRANSITIONS[self._state, Event.CLOSE]

    @rule()
    def crash(self) -> None:
        """The next process frees all turns, and finds the batch as it was."""
        self._world.turns = Turns(self._world.metadata, LimitsConfig(), lambda: self._world.now_ms)
        self.do(self._world.turns.reclaim())
        self._turn = None

    @invariant()
    def the_row_is_as_the_table_says(self) -> None:
        batch = self.find()
        assert batch.state is self._state
        assert batch.epoch == self._taken
        assert (batch.paused_at_ms is not None) or batch.state is not State.PAUSED
        assert (batch.ended_at_ms is not None) is batch.state.is_final


def test_every_order_of_moves_follows_the_table(tmp_path: Path) -> None:
    Lives.folder = tmp_path
    Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
    case = Lives.TestCase()
    case.runTest()
