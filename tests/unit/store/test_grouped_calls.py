"""Small calls go to a thread together, each answered to whom it belongs."""

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backfill.store import GroupedCalls


class Gate:
    """A call that is held in its thread, and a count of the groups."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        assert self.opened.wait(10)


def fail() -> None:
    raise LookupError


async def hold(calls: GroupedCalls) -> tuple[Gate, "asyncio.Task[None]"]:
    """A group that is under way until its gate is opened."""
    gate = Gate()
    held = asyncio.create_task(calls.run(gate.pass_through))
    await asyncio.to_thread(gate.entered.wait, 10)
    return gate, held


async def test_what_comes_while_a_group_is_under_way_goes_together_in_its_order() -> None:
    submitted: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, fn, calls, /):  # type: ignore[no-untyped-def,override]  # noqa: ANN001, ANN202
            submitted.append(len(calls))
            return super().submit(fn, calls)

    order: list[int] = []
    with Counting(1) as threads:
        calls = GroupedCalls(3, threads)
        gate, held = await hold(calls)

        def note(number: int) -> int:
            order.append(number)
            return number

        waiting = [asyncio.create_task(calls.run(functools.partial(note, number))) for number in range(7)]
        await asyncio.sleep(0)
        gate.opened.set()
        await held
        assert await asyncio.gather(*waiting) == list(range(7))
    assert order == list(range(7))
    assert submitted == [1, 3, 3, 1]


async def test_what_one_raises_is_nobody_elses() -> None:
    calls = GroupedCalls(8)
    gate, held = await hold(calls)
    waiting = asyncio.gather(calls.run(lambda: 1), calls.run(fail), calls.run(lambda: 3), return_exceptions=True)
    await asyncio.sleep(0)
    gate.opened.set()
    await held
    one, failed, three = await waiting
    assert (one, type(failed), three) == (1, LookupError, 3)


async def test_who_waits_no_more_keeps_nobody_else_from_his_answer() -> None:
    calls = GroupedCalls(8)
    gate, held = await hold(calls)
    gone, there = (asyncio.create_task(calls.run(lambda: 2)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    gate.opened.set()
    await held
    assert await there == 2
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await calls.run(lambda: 4) == 4


async def test_threads_that_are_gone_are_told_of() -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(RuntimeError):
        await GroupedCalls(8, threads).run(lambda: 1)
