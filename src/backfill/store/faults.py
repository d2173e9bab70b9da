"""Named points at which a test can have the process die, as in a power cut, stand still, or fail, as on a full disk.

`BACKFILL_FAULT=segment.written:3` kills the process by SIGKILL the third time that it reaches `segment.written`, and
`segment.written:3:SIGSTOP` has it stand still there until it is told to go on; `failing` has a point of this process
fail for a while. Without any of these a point costs one comparison. The points are listed in docs/journal.md.
"""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FAILING_POINTS", "POINTS", "Failure", "failing", "is_armed", "reach"]

POINTS = frozenset(
    {
        "blob.written",
        "blob.synced",
        "blob.sealed",
        "metadata.before_commit",
        "metadata.committed",
        "segment.created",
        "segment.half_written",
        "segment.written",
        "segment.synced",
    }
)
"""Instants between which something else is on disk: where it matters to die."""
FAILING_POINTS = POINTS | {
    "blob.create",
    "blob.write",
    "blob.read",
    "blob.remove",
    "metadata.begin",
    "metadata.read",
    "segment.create",
    "segment.write",
    "segment.sync",
}
"""These, and what the disk is asked for: where it matters to fail."""


class _Death:
    def __init__(self, setting: str) -> None:
        self.point, count, number = [*setting.split(":"), "", ""][:3]
        self._left = int(count or 1)
        self._signal = signal.Signals[number or "SIGKILL"]

    def strike(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)


class Failure:
    """A point that fails from the `first` time on that it is reached, `times` times."""

    def __init__(self, point: str, first: int, times: int) -> None:
        self.point = point
        self.reached = 0
        """How often the point was reached, whether or not it failed."""
        self.failed = 0
        """How often it failed."""
        self._first = first
        self._times = times
        self._lock = threading.Lock()

    def strike(self) -> None:
        """Count, and fail if it is time; raises OSError."""
        with self._lock:
            self.reached += 1
            fails = self._first <= self.reached < self._first + self._times
            self.failed += fails
        if fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_setting = os.environ.get("BACKFILL_FAULT", "")
_fault: _Death | Failure | None = _Death(_setting) if _setting else None


@contextmanager
def failing(point: str, *, first: int = 1, times: int = 1) -> Iterator[Failure]:
    """Have one of `FAILING_POINTS` fail in this process; it is healed after `times` failures, or at the end."""
    global _fault  # noqa: PLW0603 - armed for the whole process, as the variable arms it
    if point not in FAILING_POINTS:
        raise ValueError(point)
    armed, _fault = _fault, Failure(point, first, times)
    try:
        yield _fault
    finally:
        _fault = armed


def reach(point: str) -> None:
    """Die here, or raise OSError, if this is the point and the time for it."""
    if _fault is not None and _fault.point == point:
        _fault.strike()


def is_armed(point: str) -> bool:
    """Whether something will happen at `point` some time."""
    return _fault is not None and _fault.point == point
