"""From the pause on no line is sent; what is in flight lands; and whatever comes in between, each line runs once."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfill.app import Rooms
from backfill.batch import Batch, State
from backfill.dispatch import dispatcher
from backfill.dispatch.open_turn import OpenTurn
from backfill.errors import Conflict
from backfill.status import WaitReason
from backfill.turns import Turn
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_lines
from tests.support.rooms import OWNER, create_batch, open_house, read_results, wait_for_batch, wait_until


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def count_sent(rooms: Rooms) -> list[str]:
    """A list that grows with each request to an engine."""
    sent: list[str] = []
    (replica,) = rooms.fleet.replicas
    send = replica.send

    async def send_counted(*arguments: Any) -> Any:
        sent.append(replica.name)
        return await send(*arguments)

    replica.send = send_counted  # type: ignore[assignment,method-assign]
    return sent


async def wait_for_return(rooms: Rooms, batch: Batch) -> None:
    """Until nobody holds a turn on the batch."""
    await wait_until(lambda: batch.id not in rooms.dispatcher.open_batches)


async def pause_in_flight(rooms: Rooms, engine: NullEngine, lines: int = 20) -> Batch:
    """A batch that is paused while its first lines are with the engine, which holds them."""
    engine.behave(hold=True)
    batch = await create_batch(rooms, request_lines(lines))
    await engine.wait_for_async(lambda stats: stats["in_flight"] == 8)
    return await rooms.turns.pause(batch.id, OWNER)


def check_output(rooms: Rooms, ended: Batch, lines: int) -> None:
    """Every line is answered, once, in order."""
    assert (ended.state, ended.counts.answered) == (State.COMPLETED, lines)
    found = [json.loads(line)["custom_id"] for line in read_results(rooms, ended.output_file_id)]
    assert found == [f"request-{number}" for number in range(lines)]


async def test_what_is_in_flight_lands_and_the_rest_waits(engine: NullEngine, tmp_path: Path) -> None:
    # With this grace a cancel would have cut them at once.
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        batch = await pause_in_flight(rooms, engine)
        engine.behave(hold=False)
        await wait_for_return(rooms, batch)
        paused = await rooms.metadata.get_batch(batch.id)
        assert paused.state is State.PAUSED
        assert (await rooms.progress.count(paused)).answered == 8
        assert engine.stats()["received"] == 8
        found = rooms.dispatcher.find_wait(paused)
        assert found is not None
        assert (found.reason, found.since_ms) == (WaitReason.PAUSED, paused.paused_at_ms)
        assert f"backfill resume {batch.id}" in found.message
        assert await rooms.forecaster.find(paused) is None
        await rooms.turns.resume(batch.id, OWNER)
        check_output(rooms, await wait_for_batch(rooms, batch.id), 20)
    assert engine.stats()["dropped"] == 0
    assert Counter(engine.markers()) == {marker_of(number): 1 for number in range(20)}


async def test_what_is_in_flight_may_be_the_rest(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await pause_in_flight(rooms, engine, lines=8)
        engine.behave(hold=False)
        check_output(rooms, await wait_for_batch(rooms, batch.id), 8)


@pytest.mark.parametrize("event", ["cancel", "expire", "stop"])
async def test_what_ends_a_landing_batch_waits_for_no_long_answer(
    engine: NullEngine, tmp_path: Path, event: str
) -> None:
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        batch = await pause_in_flight(rooms, engine)
        if event == "cancel":
            await rooms.turns.cancel(batch.id, OWNER)
            assert (await wait_for_batch(rooms, batch.id)).state is State.CANCELLED
        elif event == "expire":
            assert await rooms.metadata.change_batch(batch.id, values={"deadline_at_ms": 1})
            assert (await wait_for_batch(rooms, batch.id)).state is State.EXPIRED
    # At its end the house waits for no held answer either, and the batch is as it was.
    engine.behave(hold=False)
    async with open_house(tmp_path, engine.url) as rooms:
        if event == "stop":
            assert (await rooms.metadata.get_batch(batch.id)).state is State.PAUSED
            await rooms.turns.resume(batch.id, OWNER)
            check_output(rooms, await wait_for_batch(rooms, batch.id), 20)


async def test_resumed_while_it_lands_it_goes_on_after_the_grace(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        batch = await pause_in_flight(rooms, engine)
        await rooms.turns.resume(batch.id, OWNER)
        # The eight that were held are given up, and sent again.
        await engine.wait_for_async(lambda stats: stats["received"] == 16)
        engine.behave(hold=False)
        check_output(rooms, await wait_for_batch(rooms, batch.id), 20)


async def test_a_paused_batch_holds_no_place(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_OPEN_TURNS", 1)
    engine.behave(faults={marker_of(number): ["hang"] for number in range(4)})
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        first = await create_batch(rooms, request_lines(4))
        await engine.wait_for_async(lambda stats: stats["in_flight"] == 4)
        await rooms.turns.pause(first.id, OWNER)
        second = await create_batch(rooms, request_lines(6).replace(b"marker-00000", b"marker-00001"))
        assert (await wait_for_batch(rooms, second.id)).counts.answered == 6
        assert engine.stats()["in_flight"] == 4
        await rooms.turns.resume(first.id, OWNER)
        check_output(rooms, await wait_for_batch(rooms, first.id), 4)


async def test_paused_while_its_turn_is_opened(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, may_open = asyncio.Event(), asyncio.Event()
    open_turn = OpenTurn.open

    async def open_slowly(*arguments: Any, **options: Any) -> OpenTurn:
        opening.set()
        await may_open.wait()
        return await open_turn(*arguments, **options)

    async with open_house(tmp_path, engine.url) as rooms:
        monkeypatch.setattr(OpenTurn, "open", open_slowly)
        sent = count_sent(rooms)
        batch = await create_batch(rooms, request_lines(20))
        await opening.wait()
        await rooms.turns.pause(batch.id, OWNER)
        may_open.set()
        await wait_for_return(rooms, batch)
        assert sent == []
        await rooms.turns.resume(batch.id, OWNER)
        check_output(rooms, await wait_for_batch(rooms, batch.id), 20)


async def test_paused_while_its_turn_is_taken(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        take, sent = rooms.turns.take, count_sent(rooms)
        paused = asyncio.Event()

        async def take_and_pause(*arguments: Any, **options: Any) -> list[Turn]:
            taken = await take(*arguments, **options)
            if taken and not paused.is_set():
                await rooms.turns.pause(taken[0].batch.id, OWNER)
                paused.set()
            return taken

        monkeypatch.setattr(rooms.turns, "take", take_and_pause)
        batch = await create_batch(rooms, request_lines(20))
        await paused.wait()
        await wait_for_return(rooms, batch)
        assert sent == []
        await rooms.turns.resume(batch.id, OWNER)
        check_output(rooms, await wait_for_batch(rooms, batch.id), 20)


async def test_a_batch_that_is_made_and_paused_at_once_sends_nothing(
    engine: NullEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_none(*_arguments: Any, **_options: Any) -> list[Turn]:
        return []

    async with open_house(tmp_path, engine.url) as rooms:
        sent = count_sent(rooms)
        with monkeypatch.context() as patch:
            # However busy the machine is, the pause comes before the first turn.
            patch.setattr(rooms.turns, "take", take_none)
            batch = await create_batch(rooms, request_lines(20))
            await rooms.turns.pause(batch.id, OWNER)
        # Another one, from its beginning to its end: the dispatcher has looked several times.
        await wait_for_batch(rooms, (await create_batch(rooms, request_lines(3))).id)
        assert len(sent) == 3
        assert rooms.dispatcher.find_wait(await rooms.metadata.get_batch(batch.id)) is not None
        await rooms.turns.resume(batch.id, OWNER)
        check_output(rooms, await wait_for_batch(rooms, batch.id), 20)


@pytest.mark.parametrize("seed", range(6))
async def test_pauses_at_any_instant(engine: NullEngine, tmp_path: Path, seed: int) -> None:
    """Against turns that are taken, lines that land, the last line, the close, and at last a cancel."""
    dice = random.Random(seed)
    engine.behave(delay_ms=1)
    async with open_house(tmp_path, engine.url) as rooms:
        sent = count_sent(rooms)
        batch = await create_batch(rooms, request_lines(200))
        while True:
            for _ in range(dice.randrange(60)):
                await asyncio.sleep(0)
            try:
                await rooms.turns.pause(batch.id, OWNER)
            except Conflict:
                break
            counted = len(sent)
            await wait_for_return(rooms, batch)
            assert len(sent) == counted
            resumed = asyncio.gather(
                rooms.turns.resume(batch.id, OWNER), rooms.turns.resume(batch.id, OWNER), return_exceptions=True
            )
            if any(isinstance(each, Conflict) for each in await resumed):
                break
        check_output(rooms, await wait_for_batch(rooms, batch.id), 200)
    assert Counter(engine.markers()) == {marker_of(number): 1 for number in range(200)}


@pytest.mark.parametrize("seed", range(4))
async def test_a_pause_a_cancel_and_a_deadline_at_once(engine: NullEngine, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        batch = await create_batch(rooms, request_lines(50))
        moves = [
            rooms.turns.pause(batch.id, OWNER),
            rooms.turns.resume(batch.id, OWNER),
            rooms.turns.cancel(batch.id, OWNER),
            rooms.metadata.change_batch(batch.id, values={"deadline_at_ms": 1}),
            rooms.turns.pause(batch.id, OWNER),
        ]
        dice.shuffle(moves)
        results = await asyncio.gather(*moves, return_exceptions=True)
        assert [each for each in results if isinstance(each, Exception) and not isinstance(each, Conflict)] == []
        ended = await wait_for_batch(rooms, batch.id)
        assert ended.state in (State.CANCELLED, State.EXPIRED, State.COMPLETED)
        lines = [*read_results(rooms, ended.output_file_id), *read_results(rooms, ended.error_file_id)]
        assert Counter(json.loads(line)["custom_id"] for line in lines) == {f"request-{n}": 1 for n in range(50)}
