"""Engines that share one memory: never two at once, few swaps, and a deadline that comes near is heard."""

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from backfill.dispatch.live_share import LiveShare
from backfill.dispatch.residency import Residency
from tests.support.feeding import (
    FakeReplica,
    MemoryTurn,
    feeding,
    group_of,
    make_feeder,
    make_lane,
    make_limits,
    make_turn,
)
from tests.support.virtual_clock import run_virtual

if TYPE_CHECKING:
    from backfill.dispatch.feeder import Feeder
    from backfill.engines import Replica

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Model:
    """Implements `Resident`: what a feeder would tell."""

    def __init__(self, name: str, *, left_ms: int = DAY_MS, window_ms: int = DAY_MS) -> None:
        self.fake = FakeReplica(name)
        self.replica: Replica = self.fake
        self.in_flight = 0
        self.live = LiveShare(self.replica)
        self.has_unfinished = True
        self.owners = {"o"}
        deadline_ms = time.time_ns() // 1_000_000 + left_ms
        self.due = (deadline_ms, deadline_ms - window_ms)


@pytest.fixture
def memory() -> Residency:
    return Residency()


async def bring_up(memory: Residency, model: Model) -> None:
    assert await memory.claim(model)
    await model.fake.start()


async def test_nobody_is_stopped_under_a_live_request(memory: Residency) -> None:
    first, second = Model("first"), Model("second", left_ms=DAY_MS // 2)
    await bring_up(memory, first)
    first.has_unfinished = False
    visit = first.live.presence.enter(100, is_stream=True)
    assert not await memory.claim(second)
    assert first.fake.stops == 0
    visit.leave()
    assert await memory.claim(second)
    assert first.fake.stops == 1


async def test_whoever_is_up_stays_until_it_has_no_line_left(memory: Residency) -> None:
    first, second = Model("first"), Model("second")
    await bring_up(memory, first)
    assert not await memory.claim(second)
    assert memory.may_send(first)
    assert not memory.may_send(second)
    first.has_unfinished = False
    assert await memory.claim(second)
    assert (first.fake.stops, first.fake.address) == (1, None)
    assert memory.may_send(second)


async def test_the_batch_that_is_due_first_is_next(memory: Residency) -> None:
    first, later, sooner = Model("first"), Model("later"), Model("sooner", left_ms=20 * HOUR_MS)
    await bring_up(memory, first)
    assert not await memory.claim(later)
    assert not await memory.claim(sooner)
    first.has_unfinished = False
    assert not await memory.claim(later)
    assert await memory.claim(sooner)
    assert not await memory.claim(later)


async def test_a_near_deadline_interrupts_once_nothing_is_in_flight(memory: Residency) -> None:
    first, urgent = Model("first"), Model("urgent", left_ms=5 * HOUR_MS)
    await bring_up(memory, first)
    first.in_flight = 3
    assert not await memory.claim(urgent)
    assert not memory.may_send(first), "it is given no more lines"
    assert not await memory.claim(first)
    assert first.fake.stops == 0, "what it computes is not thrown away"
    first.in_flight = 0
    assert await memory.claim(urgent)
    assert first.fake.stops == 1
    # Its own deadline is later, so it waits until the other is through.
    assert not await memory.claim(first)
    assert urgent.fake.stops == 0


@pytest.mark.parametrize("left_ms", [7 * HOUR_MS, 20 * HOUR_MS])
async def test_an_earlier_deadline_alone_is_no_reason(memory: Residency, left_ms: int) -> None:
    first, second = Model("first"), Model("second", left_ms=left_ms)
    await bring_up(memory, first)
    assert not await memory.claim(second)
    assert memory.may_send(first)


async def test_an_urgent_one_waits_for_one_that_is_due_earlier_still(memory: Residency) -> None:
    first, second = Model("first", left_ms=HOUR_MS), Model("second", left_ms=2 * HOUR_MS)
    await bring_up(memory, first)
    assert not await memory.claim(second)
    assert memory.may_send(first)


def test_owners_with_a_model_each_take_turns_however_long_each_would_need() -> None:
    async def share() -> list[str]:
        memory = Residency()
        models = [Model(name) for name in ("a", "b", "c")]
        for model in models:
            model.owners = {model.fake.name}
        await bring_up(memory, models[0])
        loaded = ["a"]
        for _ in range(360):
            await asyncio.sleep(10)
            waiting = [model for model in models if not memory.may_send(model)]
            loaded += [model.fake.name for model in waiting if await memory.claim(model)]
        return loaded

    # An hour at ten minutes each; each of them waits for the two others and no longer.
    loaded = run_virtual(share())
    assert loaded in ([*"abcabc"], [*"abcabca"])


def test_one_owner_s_models_are_swapped_no_oftener_for_that() -> None:
    async def share() -> int:
        memory = Residency()
        first, second = Model("first"), Model("second")
        await bring_up(memory, first)
        for _ in range(360):
            await asyncio.sleep(10)
            assert not await memory.claim(second)
        return first.fake.stops

    assert run_virtual(share()) == 0


async def test_an_interruption_ends_when_what_it_was_for_is_cancelled(memory: Residency) -> None:
    first, urgent = Model("first"), Model("urgent", left_ms=HOUR_MS)
    await bring_up(memory, first)
    first.in_flight = 1
    assert not await memory.claim(urgent)
    urgent.has_unfinished = False
    assert await memory.claim(first)
    assert memory.may_send(first)


async def test_a_claim_whose_lines_were_cancelled_is_passed_over(memory: Residency) -> None:
    first, second, third = Model("first"), Model("second", left_ms=HOUR_MS), Model("third")
    await bring_up(memory, first)
    first.in_flight = 1
    assert not await memory.claim(second)
    second.has_unfinished = False
    assert not await memory.claim(second)
    first.has_unfinished, first.in_flight = False, 0
    assert await memory.claim(third)


async def test_one_that_cannot_be_started_keeps_nobody_waiting(memory: Residency) -> None:
    broken, other = Model("broken"), Model("other")
    assert await memory.claim(broken)
    assert not await memory.claim(other)
    await memory.give_up(broken)
    assert await memory.claim(other)
    assert not await memory.claim(broken)
    # What does not hold the memory has none to give.
    await memory.give_up(broken)
    assert memory.may_send(other)


async def test_nothing_is_sent_while_engines_are_swapped(memory: Residency) -> None:
    first, second = Model("first"), Model("second")
    stopping, stopped = asyncio.Event(), asyncio.Event()

    async def stop() -> None:
        stopping.set()
        await stopped.wait()

    await bring_up(memory, first)
    first.replica = cast("Replica", SimpleNamespace(name="first", stop=stop))
    first.has_unfinished = False
    swap = asyncio.create_task(memory.claim(second))
    await stopping.wait()
    # Lines come for the first one at this very moment.
    first.has_unfinished = True
    assert not await memory.claim(first)
    assert not memory.may_send(first)
    assert not memory.may_send(second)
    stopped.set()
    assert await swap
    assert memory.may_send(second)
    assert not memory.may_send(first)


class House:
    """Models that share one memory, each with a feeder; notes which is up, in order."""

    def __init__(self, names: str) -> None:
        residency = Residency()
        self.order: list[str] = []
        self.replicas = {name: self._make(name) for name in names}
        self.feeders: dict[str, Feeder] = {
            name: make_feeder(replica, residency) for name, replica in self.replicas.items()
        }

    def offer(self, name: str, lines: Sequence[int], **times: Any) -> MemoryTurn:
        """A batch for one model."""
        groups = [group_of(lines)]
        turn = make_turn(*groups, **times)
        self.feeders[name].offer(make_lane(turn, groups, [self.replicas[name]]))
        return turn

    def _make(self, name: str) -> FakeReplica:
        replica = FakeReplica(name, make_limits(2, exclusive="gpu"))
        replica.on_send = lambda _: self._note_send(name)
        return replica

    def _note_send(self, name: str) -> None:
        up = [other.name for other in self.replicas.values() if other.address is not None]
        assert up == [name], "two are up at once"
        if not self.order or self.order[-1] != name:
            self.order.append(name)


def test_three_models_cost_one_load_each() -> None:
    async def check() -> None:
        house = House("abc")
        async with feeding(*house.feeders.values()), asyncio.timeout(600):
            # Lines of all three come in turns.
            turns = [
                house.offer(name, range(round_ * 10, round_ * 10 + 10), created_at_ms=round_)
                for round_ in range(3)
                for name in "abc"
            ]
            for turn in turns:
                await turn.over.wait()
        assert all(len(turn.outcomes) == 10 for turn in turns)
        assert [replica.starts for replica in house.replicas.values()] == [1, 1, 1]
        assert sum(replica.stops for replica in house.replicas.values()) == 2
        assert sorted(house.order) == ["a", "b", "c"]

    run_virtual(check())


def test_a_batch_that_is_due_soon_gets_the_memory_and_gives_it_back() -> None:
    async def check() -> None:
        house = House("ab")
        now_ms = time.time_ns() // 1_000_000
        async with feeding(*house.feeders.values()), asyncio.timeout(3600):
            long = house.offer("a", range(200), created_at_ms=now_ms, deadline_at_ms=now_ms + DAY_MS)
            await asyncio.sleep(10)
            soon = house.offer("b", range(4), created_at_ms=now_ms - DAY_MS, deadline_at_ms=now_ms + HOUR_MS)
            await soon.over.wait()
            assert len(long.outcomes) < 30
            await long.over.wait()
        assert house.order == ["a", "b", "a"]
        assert (len(soon.outcomes), len(long.outcomes)) == (4, 200)
        assert len(house.replicas["a"].sent) == 200, "nothing was begun and thrown away"

    run_virtual(check())


def test_a_model_that_does_not_start_leaves_the_memory_to_others() -> None:
    async def check() -> None:
        house = House("ab")
        house.replicas["a"].is_down = True
        async with feeding(*house.feeders.values()), asyncio.timeout(600):
            broken = house.offer("a", range(4))
            await asyncio.sleep(1)
            other = house.offer("b", range(4))
            await other.over.wait()
            house.replicas["a"].is_down = False
            await broken.over.wait()
        assert house.order == ["b", "a"]

    run_virtual(check())


def test_a_cancel_while_the_memory_is_taken_harms_nobody() -> None:
    async def check() -> None:
        house = House("ab")
        async with feeding(*house.feeders.values()), asyncio.timeout(600):
            first = house.offer("a", range(20))
            await asyncio.sleep(1)
            cancelled = house.offer("b", range(4))
            await asyncio.sleep(1)
            await cancelled.wind_down(0.0)
            await first.over.wait()
            await asyncio.sleep(5)
        assert house.order == ["a"]
        assert house.replicas["b"].starts == 0

    run_virtual(check())
