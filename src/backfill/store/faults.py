"""Named points at which a test can have the process die, as a power cut would have it.

`BACKFILL_FAULT=journal.written:3` kills the process by SIGKILL the third time that it reaches `journal.written`.
Without the variable a point costs one comparison. The points are listed in docs/journal.md.
"""

import os
import signal

__all__ = ["POINTS", "is_armed", "reach"]

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


class _Fault:
    def __init__(self, setting: str) -> None:
        name, _, count = setting.partition(":")
        self.name = name
        self.left = int(count or 1)


_setting = os.environ.get("BACKFILL_FAULT", "")
_fault = _Fault(_setting) if _setting else None


def reach(point: str) -> None:
    """Die here if this is the point and the time that BACKFILL_FAULT names."""
    if _fault is None or _fault.name != point:
        return
    _fault.left -= 1
    if _fault.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def is_armed(point: str) -> bool:
    """Whether the process will die at `point` some time."""
    return _fault is not None and _fault.name == point
