"""The threads that compute, one for each core: chunks wait in one line, and what is alike is computed together."""

import ctypes
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from backfill.engines.speech.host.chunks import Chunk
from backfill.engines.speech.host.requests import Order
from backfill.engines.speech.host.segments import Spoken

__all__ = ["Workers"]

Hear = Callable[[Sequence[Chunk], Order, str | None], list[Spoken]]


@dataclass(slots=True)
class _Task:
    chunk: Chunk
    order: Order
    language: str | None
    future: Future[Spoken] = field(default_factory=Future)

    def is_like(self, other: "_Task") -> bool:
        return (self.order, self.language) == (other.order, other.language)


# Of glibc alone. Without it what a batch needed stays with the thread that had it, in pieces that no other can use.
_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Workers:
    """So many threads; they end with the process."""

    def __init__(self, hear: Hear, count: int, batch_size: int) -> None:
        self._hear = hear
        self._batch_size = batch_size
        self._waiting: deque[_Task] = deque()
        self._idle = count
        self._change = threading.Condition()
        for number in range(count):
            threading.Thread(target=self._work, name=f"worker {number}", daemon=True).start()

    def submit(self, chunk: Chunk, order: Order, language: str | None) -> Future[Spoken]:
        """Have a chunk heard; a future that is cancelled before its turn costs nothing."""
        task = _Task(chunk, order, language)
        with self._change:
            self._waiting.append(task)
            self._change.notify()
        return task.future

    def _work(self) -> None:
        while True:
            batch = self._take()
            try:
                spoken = self._hear([task.chunk for task in batch], batch[0].order, batch[0].language)
            except Exception as error:  # noqa: BLE001 - a foreign library: whatever it raises goes to those who wait
                for task in batch:
                    task.future.set_exception(error)
            else:
                for task, one in zip(batch, spoken, strict=True):
                    task.future.set_result(one)
            _release_memory()
            with self._change:
                self._idle += 1

    def _take(self) -> list[_Task]:
        """The first that waits and others like it: its share, where other workers are idle too."""
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._waiting))
                size = min(self._batch_size, math.ceil(len(self._waiting) / self._idle))
                first = self._waiting.popleft()
                batch, others = [first], list[_Task]()
                while self._waiting and len(batch) < size:
                    task = self._waiting.popleft()
                    (batch if task.is_like(first) else others).append(task)
                self._waiting.extendleft(reversed(others))
                running = [task for task in batch if task.future.set_running_or_notify_cancel()]
                if running:
                    self._idle -= 1
                    return running


def _release_memory() -> None:
    if _trim is not None:
        _trim(0)
