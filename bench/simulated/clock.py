"""An event loop whose clock jumps: where nothing is left to do now, it is at once the time of the next timer."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["VirtualClockLoop", "run_virtual"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Starts at 0 s; hours of timers take as long as what they call.

    The clock stands still while work is in an executor. Any other thread or process should not be waited for with a
    timeout: the timeout would be over at once.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.in_executor = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """As ever, but the clock waits for the result."""
        future = super().run_in_executor(executor, func, *args)
        self.in_executor += 1
        future.add_done_callback(self._note_executed)
        return future

    def _note_executed(self, _: asyncio.Future[Any]) -> None:
        self.in_executor -= 1


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or self._loop.in_executor:
            return super().select(0 if timeout == 0 else None)
        ready = super().select(0)
        if not ready:
            self._loop.now_s += timeout
        return ready


def run_virtual(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run it to its end on a loop of its own with a jumping clock, and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(coroutine)
