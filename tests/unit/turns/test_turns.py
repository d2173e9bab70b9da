"""The life of a batch: created, admitted, leased, cancelled, expired, closed."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from backfill.batch import BatchProblem, Counts, Dialect, File, FileStatus, State
from backfill.config import LimitsConfig
from backfill.errors import Conflict, InvalidInput, NotFound, TurnLost
from backfill.index import EndpointSurvey, Survey
from backfill.store import Metadata
from backfill.turns import BatchRequest, Turns, judge, parse_window

CHAT = "/v1/chat/completions"
HOUR_MS = 3_600_000


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


class World:
    """A database, two processes that share it, and a clock."""

    def __init__(self, metadata: Metadata) -> None:
        self.clock = Clock()
        self.metadata = metadata
        self.turns = Turns(metadata, LimitsConfig(), self.clock)
        self.others = Turns(metadata, LimitsConfig(), self.clock)

    async def add_file(self, survey: Survey | None = None, *, status: FileStatus = FileStatus.SEALED) -> str:
        chosen = survey or Survey(lines=3, models=("m",))
        file = File(
            id=f"file-{self.clock.now_ms}",
            owner="o",
            filename="a",
            purpose="batch-api",
            status=status,
            created_at_ms=self.clock.now_ms,
            size_bytes=9,
            line_count=chosen.lines,
            survey=msgspec.json.encode(chosen),
        )
        await self.metadata.add_file(file)
        return file.id

    async def start(self, **request: object) -> str:
        file_id = await self.add_file()
        batch = await self.turns.create(BatchRequest("o", CHAT, file_id, **request))  # type: ignore[arg-type]
        await self.turns.admit_waiting()
        self.clock.now_ms += 1
        return batch.id

    async def state(self, batch_id: str) -> State:
        return (await self.metadata.get_batch(batch_id)).state


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    metadata = await Metadata.open(tmp_path / "m.db")
    yield World(metadata)
    await metadata.close()


async def test_a_new_batch_waits_to_be_judged_and_knows_its_deadline_and_model(world: World) -> None:
    batch = await world.turns.create(BatchRequest("o", CHAT, await world.add_file()))
    assert batch.state is State.VALIDATING
    assert batch.deadline_at_ms == batch.created_at_ms + 24 * HOUR_MS
    assert (batch.model_id, batch.counts.total, batch.input_size_bytes) == ("m", 3, 9)
    assert await world.metadata.get_batch(batch.id) == batch


@pytest.mark.parametrize(("window", "window_ms"), [("24h", 24 * HOUR_MS), ("30m", HOUR_MS // 2), ("2d", 48 * HOUR_MS)])
def test_windows(window: str, window_ms: int) -> None:
    assert parse_window(window) == window_ms


@pytest.mark.parametrize("window", ["", "24", "h", "0h", "-1h", "24 h", "1w", "99999h"])
def test_windows_that_are_none(window: str) -> None:
    with pytest.raises(InvalidInput, match="completion_window"):
        parse_window(window)


async def test_what_cannot_be_created(world: World) -> None:
    file_id = await world.add_file()
    with pytest.raises(InvalidInput, match="endpoint must be one of"):
        await world.turns.create(BatchRequest("o", "/v1/nope", file_id))
    with pytest.raises(NotFound):
        await world.turns.create(BatchRequest("someone else", CHAT, file_id))
    world.clock.now_ms += 1
    reserved = await world.add_file(status=FileStatus.RESERVED)
    with pytest.raises(InvalidInput, match="not been uploaded"):
        await world.turns.create(BatchRequest("o", CHAT, reserved))


async def test_a_bad_file_fails_the_batch_with_its_reasons(world: World) -> None:
    problems = tuple(BatchProblem("bad", f"bad {line}", line=line) for line in range(1, 21))
    file_id = await world.add_file(Survey(lines=30, models=("m",), problems=problems, problem_count=30))
    batch = await world.turns.create(BatchRequest("o", CHAT, file_id))
    await world.turns.admit_waiting()
    failed = await world.metadata.get_batch(batch.id)
    assert failed.state is State.FAILED
    assert (failed.problems, failed.problem_count) == (problems, 30)
    assert failed.ended_at_ms == world.clock.now_ms


def test_a_file_is_judged_by_endpoint_and_by_model() -> None:
    survey = Survey(
        lines=3,
        problems=(BatchProblem("b", "second", line=2),),
        problem_count=1,
        endpoints={CHAT: EndpointSurvey((BatchProblem("a", "first", line=1),), 5)},
        lines_without_model=2,
        first_without_model=3,
    )
    problems, count = judge(survey, CHAT, None, Dialect.TOGETHER)
    assert [problem.line for problem in problems] == [1, 2, 3]
    assert count == 7
    assert judge(survey, "/v1/embeddings", "m", Dialect.TOGETHER)[1] == 1


async def test_one_line_without_model_does_not_borrow_that_of_the_others(world: World) -> None:
    survey = Survey(lines=2, models=("m",), lines_without_model=1, first_without_model=2)
    batch = await world.turns.create(BatchRequest("o", CHAT, await world.add_file(survey)))
    await world.turns.admit_waiting()
    assert await world.state(batch.id) is State.FAILED


async def test_a_turn_is_held_by_one_and_by_nobody_else_until_its_lease_ends(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(5)
    assert (turn.batch.id, turn.epoch) == (batch_id, 1)
    assert await world.others.take(5) == []
    world.clock.now_ms += 29_000
    await world.turns.renew()
    world.clock.now_ms += 29_000
    assert await world.others.take(5) == []
    world.clock.now_ms += 2_000
    (second,) = await world.others.take(5)
    assert second.epoch == 2
    assert await world.turns.still_running([turn]) == set()
    with pytest.raises(TurnLost):
        await world.turns.give_back(turn, drained=True)
    assert await world.state(batch_id) is State.IN_PROGRESS


async def test_reclaiming_frees_what_a_dead_process_held(world: World) -> None:
    await world.start()
    await world.turns.take(5)
    await world.others.reclaim()
    (turn,) = await world.others.take(5)
    assert turn.epoch == 2


async def test_the_earliest_deadline_goes_first(world: World) -> None:
    late = await world.start()
    soon = await world.start(completion_window="1h")
    later = await world.start(completion_window="2h")
    assert [turn.batch.id for turn in await world.turns.take(2)] == [soon, later]
    assert [turn.batch.id for turn in await world.turns.take(2)] == [late]


async def test_a_holder_takes_no_second_turn_on_what_it_still_works_on(world: World) -> None:
    """After a sleep of the machine, say: the lease is over, and the first turn still writes its segment."""
    batch_id = await world.start()
    (turn,) = await world.turns.take(9)
    world.clock.now_ms += HOUR_MS // 60
    assert await world.turns.take(9, besides={batch_id}) == []
    await world.turns.renew()
    assert await world.turns.still_running([turn]) == {batch_id}


async def test_a_drained_turn_can_be_gathered_and_an_undrained_one_goes_on(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(1)
    await world.turns.give_back(turn, drained=False)
    assert await world.state(batch_id) is State.IN_PROGRESS
    (turn,) = await world.turns.take(1)
    assert await world.turns.find_closable() == []
    await world.turns.give_back(turn, drained=True)
    (batch,) = await world.turns.find_closable()
    assert batch.state is State.FINALIZING


async def test_a_cancel_waits_for_the_turn_and_keeps_to_one(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(1)
    assert (await world.turns.cancel(batch_id, "o")).state is State.CANCELLING
    assert (await world.turns.cancel(batch_id, "o")).state is State.CANCELLING
    assert await world.turns.still_running([turn]) == set()
    assert await world.turns.find_closable() == []
    await world.turns.give_back(turn, drained=True)
    (batch,) = await world.turns.find_closable()
    assert batch.state is State.CANCELLING
    with pytest.raises(NotFound):
        await world.turns.cancel(batch_id, "someone else")


async def test_a_batch_expires_at_its_deadline_and_not_before(world: World) -> None:
    batch_id = await world.start()
    world.clock.now_ms = (await world.metadata.get_batch(batch_id)).deadline_at_ms - 1
    await world.turns.expire_due()
    assert await world.state(batch_id) is State.IN_PROGRESS
    world.clock.now_ms += 1
    await world.turns.expire_due()
    assert await world.state(batch_id) is State.EXPIRING


async def test_status_counts_and_files_become_visible_in_one_write(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(1)
    await world.turns.give_back(turn, drained=True)
    (batch,) = await world.turns.find_closable()
    output = File(
        id="file-out", owner="o", filename="o", purpose="batch-api", status=FileStatus.SEALED, created_at_ms=1
    )
    assert await world.turns.close(batch, Counts(3, 3, 0), output, None)
    assert not await world.turns.close(batch, Counts(3, 2, 1), output, None)
    closed = await world.metadata.get_batch(batch_id)
    assert (closed.state, closed.output_file_id, closed.error_file_id) == (State.COMPLETED, "file-out", None)
    assert closed.counts == Counts(3, 3, 0)
    with pytest.raises(Conflict, match="completed"):
        await world.turns.cancel(batch_id, "o")
    world.clock.now_ms += 1
    with pytest.raises(InvalidInput, match="output of Backfill"):
        await world.turns.create(BatchRequest("o", CHAT, "file-out"))
