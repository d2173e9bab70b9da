"""The life of a batch: created, admitted, leased, cancelled, expired, closed."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import Connection

from backfill.batch import BatchProblem, Counts, Dialect, File, FileStatus, State
from backfill.config import LimitsConfig
from backfill.errors import Conflict, InvalidInput, NotFound, StoreUnavailable, TurnLost
from backfill.index import EndpointSurvey, Survey
from backfill.store import Metadata
from backfill.store.faults import failing
from backfill.turns import BatchRequest, Turns, judge
from backfill.wire import parse_window
from tests.support.rows import RowsPlace

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
async def world(rows: RowsPlace) -> AsyncIterator[World]:
    metadata = await Metadata.open(rows.make_driver())
    yield World(metadata)
    await metadata.close()


async def test_a_new_batch_waits_to_be_judged_and_knows_its_deadline_and_model(world: World) -> None:
    batch = await world.turns.create(BatchRequest("o", CHAT, await world.add_file()))
    assert batch.state is State.VALIDATING
    assert batch.deadline_at_ms == batch.created_at_ms + 24 * HOUR_MS
    assert (batch.model_id, batch.counts.total, batch.input_size_bytes) == ("m", 3, 9)
    assert await world.metadata.get_batch(batch.id) == batch


@pytest.mark.parametrize(
    ("window", "window_ms"),
    [
        ("24h", 24 * HOUR_MS),
        ("15m", HOUR_MS // 4),
        ("030M", HOUR_MS // 2),
        ("2D", 48 * HOUR_MS),
        ("72h", 72 * HOUR_MS),
        ("4320m", 72 * HOUR_MS),
    ],
)
def test_windows(window: str, window_ms: int) -> None:
    assert parse_window(window, 0.25, 72) == window_ms


@pytest.mark.parametrize(
    "window", ["", "24", "h", "0h", "-1h", "24 h", "1w", "14m", "73h", "4d", "9" * 99 + "h", "\u0661h"]
)
def test_windows_that_are_none_are_told_the_bounds(window: str) -> None:
    with pytest.raises(InvalidInput, match="must be a whole number and m, h or d, from 15m to 72h; got"):
        parse_window(window, 0.25, 72)


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


def find_lines(survey: EndpointSurvey) -> list[int | None]:
    return [problem.line for problem in survey.problems]


def test_what_fails_the_batch_and_what_fails_a_request_are_told_apart() -> None:
    survey = Survey(
        lines=9,
        problems=(BatchProblem("b", "second", line=2),),
        problem_count=1,
        targets={CHAT: EndpointSurvey((BatchProblem("u", "url", line=4),), 1)},
        endpoints={CHAT: EndpointSurvey((BatchProblem("a", "first", line=1),), 5)},
        without_model={CHAT: EndpointSurvey((BatchProblem("m", "third", line=3),), 1)},
    )
    verdict = judge(survey, CHAT, None)
    assert verdict.fails
    assert (find_lines(verdict.of_file), verdict.of_file.problem_count) == ([2], 1)
    assert (find_lines(verdict.of_requests), verdict.of_requests.problem_count) == ([1, 3], 6)
    assert (find_lines(verdict.reasons), verdict.reasons.problem_count) == ([1, 2, 3], 7)
    assert find_lines(judge(survey, CHAT, None, Dialect.OPENAI).of_file) == [2, 4]
    assert find_lines(judge(survey, CHAT, "m").of_requests) == [1]
    assert judge(survey, "/v1/embeddings", "m").reasons.problem_count == 1


@pytest.mark.parametrize(("unsendable", "fails"), [(0, False), (1, False), (2, False), (3, True)])
def test_a_batch_fails_only_if_no_request_is_left(unsendable: int, fails: bool) -> None:
    problems = tuple(BatchProblem("a", "bad", line=line + 1) for line in range(unsendable))
    survey = Survey(lines=3, endpoints={CHAT: EndpointSurvey(problems, unsendable)})
    assert judge(survey, CHAT, "m").fails is fails
    assert not judge(survey, "/v1/completions", "m").fails


async def test_one_line_without_model_does_not_borrow_that_of_the_others(world: World) -> None:
    nameless = EndpointSurvey((BatchProblem("missing_model", "none", line=2),), 1)
    survey = Survey(lines=2, models=("m",), lines_without_model=1, without_model={CHAT: nameless})
    batch = await world.turns.create(BatchRequest("o", CHAT, await world.add_file(survey)))
    await world.turns.admit_waiting()
    assert batch.model_id is None
    assert await world.state(batch.id) is State.IN_PROGRESS


async def test_an_endpoint_without_its_version_is_the_same_one(world: World) -> None:
    batch = await world.turns.create(BatchRequest("o", "/chat/completions", await world.add_file(), "24H"))
    assert (batch.endpoint, batch.completion_window) == (CHAT, "24H")
    assert batch.deadline_at_ms == world.clock.now_ms + 24 * 3_600_000


async def test_a_turn_is_held_by_one_and_by_nobody_else_until_its_lease_ends(world: World) -> None:
    batch_id = await world.start()
    (turn,) = await world.turns.take(5)
    assert (turn.batch.id, turn.epoch) == (batch_id, 1)
    assert await world.others.take(5) == []
    world.clock.now_ms += 29_000
    await world.turns.renew([turn])
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
    assert await world.turns.take(9, [turn]) == []
    await world.turns.renew([turn])
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


async def test_what_a_look_takes_is_taken_as_a_whole_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backfill.store.database._CHANGES_AT_ONCE", 1)
    ids = {await world.start() for _ in range(3)}
    with failing("metadata.before_commit"), pytest.raises(StoreUnavailable):
        await world.turns.take(9)
    taken = await world.turns.take(9)
    assert {turn.batch.id: turn.epoch for turn in taken} == dict.fromkeys(ids, 1)


async def test_a_look_that_finds_nothing_keeps_nobody_from_writing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = world.metadata.database.driver.begin

    def note(connection: Connection, *, alone: bool) -> None:
        begun.append(alone)
        begin(connection, alone=alone)

    await world.start()
    assert len(await world.turns.take(1)) == 1
    monkeypatch.setattr(world.metadata.database.driver, "begin", note)
    # One behind a look that found something for each place; then none, but where it is in nobody's way.
    for _ in range(4):
        assert await world.turns.take(9) == []
    assert len(begun) == (4 if world.metadata.database.many_writers else 1)
    assert not (world.metadata.database.many_writers and any(begun))


async def test_a_lease_that_nobody_works_on_runs_out(world: World) -> None:
    """As after a write of which nobody knows whether it was made."""
    await world.start()
    (live,) = await world.turns.take(9)
    taken = await world.start()
    with failing("metadata.committed"), pytest.raises(StoreUnavailable):
        await world.turns.take(9)
    world.clock.now_ms += 20_000
    await world.turns.renew([live])
    world.clock.now_ms += 11_000
    (turn,) = await world.others.take(9)
    assert (turn.batch.id, turn.epoch) == (taken, 2)


async def test_a_survey_that_cannot_be_read_holds_no_other_batch_up(world: World) -> None:
    file_id = await world.add_file()
    bad = await world.turns.create(BatchRequest("o", CHAT, file_id))
    file = await world.metadata.get_file(file_id)
    await world.metadata.delete_file(file_id)
    await world.metadata.add_file(msgspec.structs.replace(file, survey=b"{"))
    world.clock.now_ms += 1
    good = await world.turns.create(BatchRequest("o", CHAT, await world.add_file()))
    await world.turns.admit_waiting()
    assert await world.state(bad.id) is State.FAILED
    assert await world.state(good.id) is State.IN_PROGRESS


async def test_more_batches_than_one_look_takes_are_all_admitted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backfill.turns.turns.BATCHES_AT_ONCE", 3)
    file_id = await world.add_file()
    created = [await world.turns.create(BatchRequest("o", CHAT, file_id)) for _ in range(7)]
    bell = world.turns.subscribe()
    for admitted in (3, 6, 7):
        await world.turns.admit_waiting()
        states = [await world.state(batch.id) for batch in created]
        assert states.count(State.IN_PROGRESS) == admitted
        # Whoever looks is called again while there are more.
        await bell.wait(60)
    assert len(await world.turns.take(9)) == 6
    assert len(await world.turns.take(9)) == 1
