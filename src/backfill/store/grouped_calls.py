"""Small calls that block, carried to a worker thread several at once.

The way to a thread and back, with the interpreter's lock on both sides, costs more than what such a call does there. So
there is one group under way at a time, and whatever is asked for meanwhile goes with the next one.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

__all__ = ["GroupedCalls"]

_Result = TypeVar("_Result")


class _Waiting(NamedTuple):
    call: Callable[[], Any]
    outcome: "asyncio.Future[Any]"


class GroupedCalls:
    """Carries out calls in the order in which they come; what one of them raises is its own caller's."""

    def __init__(self, most: int, threads: Executor | None = None) -> None:
        """`most`: so many go together, so that nobody waits long for others. Without `threads`, the loop's own."""
        self._most = most
        self._threads = threads
        self._waiting: list[_Waiting] = []
        self._carrying: asyncio.Task[None] | None = None

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """What the call gives, or raises."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_Result] = loop.create_future()
        self._waiting.append(_Waiting(call, outcome))
        if self._carrying is None or self._carrying.done():
            self._carrying = loop.create_task(self._carry_waiting(), name="grouped calls")
        return await outcome

    async def _carry_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            calls = [waiting.call for waiting in group]
            try:
                found = await loop.run_in_executor(self._threads, _run_each, calls)
            except RuntimeError as error:  # the threads are shut down
                found = [error] * len(calls)
            for waiting, result in zip(group, found, strict=True):
                # A caller that was cancelled does not wait any more.
                if waiting.outcome.done():
                    continue
                if isinstance(result, BaseException):
                    waiting.outcome.set_exception(result)
                else:
                    waiting.outcome.set_result(result)


def _run_each(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call gives, an exception if it raises one."""
    return [_run(call) for call in calls]


def _run(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the caller whose call it was
        return error
