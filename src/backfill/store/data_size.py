"""How much the data directory holds, and whether it may hold more.

Looked at in a worker thread. What lies in a file's folder that has not changed for a while is remembered, so that only
the folder is looked at; what is uploaded in between two looks is added as it comes.
"""

import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from backfill.errors import StoreFull

__all__ = ["DataSize", "measure_folder"]

NEAR = 0.95
# A file whose upload takes longer between two pieces than that was given up.
_SETTLED_S = 600.0
# A look that takes longer is not made again before it has cost a twentieth of all time.
_QUICK_LOOK_S = 0.005
_SHARE_OF_TIME = 0.05
_KEPT_MAX_S = 60.0


class _Known(NamedTuple):
    changed_at_ns: int
    size_bytes: int


class DataSize:
    """The bytes below a data directory, against a limit."""

    def __init__(self, folder: Path | None, limit_bytes: int = 0, measure_far: Callable[[], int] | None = None) -> None:
        """`limit_bytes` 0: any number will do; without a folder nothing is looked at.

        `measure_far` gives the bytes that do not lie on this machine.
        """
        self._measure_far = measure_far
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._known: dict[Path, _Known] = {}
        self._measured_bytes = 0
        self._noted_bytes = 0
        self._measuring = threading.Lock()
        self._fresh_until_s = float("-inf")

    @property
    def limit_bytes(self) -> int:
        """0: any number will do."""
        return self._limit_bytes

    @property
    def size_bytes(self) -> int:
        """As measured the last time, and what came since."""
        return self._measured_bytes + self._noted_bytes

    def measure(self) -> int:
        """Look again. Blocks on disk: call it in a worker thread."""
        with self._measuring:
            began_s = time.thread_time()
            before = self._noted_bytes
            seen: dict[Path, _Known] = {}
            # Folders of files and journals are two levels below `blobs`; all else is little, or few.
            units = () if self._folder is None else _list_units(self._folder)
            total = sum(self._measure_known(entry, seen) for entry in units)
            total += 0 if self._measure_far is None else self._measure_far()
            self._known = seen
            # What came while this looked may have been seen or not: counted twice rather than never.
            self._measured_bytes, self._noted_bytes = total, self._noted_bytes - before
            took_s = time.thread_time() - began_s
            kept_s = min(took_s / _SHARE_OF_TIME, _KEPT_MAX_S) if took_s > _QUICK_LOOK_S else 0.0
            self._fresh_until_s = time.monotonic() + kept_s
            return total

    @property
    def is_fresh(self) -> bool:
        """Whether the last look was made so lately that another one would be too many."""
        return time.monotonic() < self._fresh_until_s

    def note(self, size_bytes: int) -> None:
        """So many bytes were written since."""
        self._noted_bytes += size_bytes

    def check_room(self) -> None:
        """Raise StoreFull if nothing new may begin."""
        if self._limit_bytes and self.size_bytes >= self._limit_bytes * NEAR:
            raise self._make_error()

    def check_growth(self) -> None:
        """Raise StoreFull if what has begun may not go on: there is nothing left."""
        if self._limit_bytes and self.size_bytes > self._limit_bytes:
            raise self._make_error()

    def _make_error(self) -> StoreFull:
        return StoreFull(
            f"The server holds {self.size_bytes:,} bytes, and may hold {self._limit_bytes:,} "
            "(retention.data_size_bytes): no more files are taken until there is room. Deleting files that are not "
            "needed any more makes room (DELETE /v1/files/{id}), and so do retention.*_days; batches go on meanwhile."
        )

    def _measure_known(self, path: Path, seen: dict[Path, _Known]) -> int:
        """A file's own folder is written in at its upload and hardly ever again; everything else may grow."""
        if path.parent.name != "files":
            return measure_folder(path)
        try:
            changed_at_ns = path.stat().st_mtime_ns
        except OSError:
            return 0
        known = self._known.get(path)
        if known is None or known.changed_at_ns != changed_at_ns:
            entries = _scan(path)
            known = _Known(changed_at_ns, sum(measure_folder(entry) for entry in entries))
            # Bytes that are still written, and parts, change no time of this folder.
            if time.time_ns() - changed_at_ns < _SETTLED_S * 1e9 or any(entry.is_dir() for entry in entries):
                return known.size_bytes
        seen[path] = known
        return known.size_bytes


def measure_folder(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; 0 if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return sum(map(measure_folder, _scan(path))) if stat.S_ISDIR(found.st_mode) else found.st_size


def _list_units(folder: Path) -> Iterator[Path]:
    """What is measured as one: each folder below a folder of `blobs`, and whatever else there is."""
    for path in _scan(folder):
        if path.name != "blobs":
            yield path
            continue
        for kind in _scan(path):
            yield from _scan(kind)


def _scan(folder: Path) -> list[Path]:
    """What goes while one looks is not there."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
