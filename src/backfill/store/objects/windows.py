"""Pieces of one blob that were read once, kept on the local disk until its readers are closed.

Lines are read in any order, as those that begin alike are sent together; so what was paid for once is kept, in a file
without a name, which nothing has to tidy up. Each piece is asked for once, however many threads want it.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backfill.store.permissions import make_folder

__all__ = ["CacheRoom", "SharedWindows", "WindowFile"]

WINDOW_BYTES = 1 << 20
"""Some hundred lines."""


class CacheRoom:
    """How much all readers together may keep on the local disk."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._left_bytes = limit_bytes
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Whether there is room for so many bytes more."""
        with self._lock:
            if size_bytes > self._left_bytes:
                return False
            self._left_bytes -= size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """So many bytes are kept no more."""
        with self._lock:
            self._left_bytes += size_bytes


class WindowFile:
    """What was read of one blob, whose bytes never change; it may grow."""

    def __init__(self, room: CacheRoom, load: Callable[[int, int], bytes]) -> None:
        """`load` gives so many bytes from an offset on, fewer only at the end of the blob."""
        self._room = room
        self._load = load
        self._lock = threading.Lock()
        self._loading: dict[int, threading.Event] = {}
        self._ends: dict[int, int] = {}
        """Number of a window -> where what is kept of it ends in the blob."""
        self._descriptor = -1
        self._kept_bytes = 0
        self._is_off = False
        """Closed, or the local disk takes nothing: then each read asks the store."""

    def holds(self, offset: int, length: int) -> bool:
        """Whether all of these bytes are kept."""
        if self._is_off:
            return False
        ends = self._ends
        end = offset + length
        last = max(offset, end - 1) // WINDOW_BYTES
        return all(
            ends.get(window, 0) >= min(end, (window + 1) * WINDOW_BYTES)
            for window in range(offset // WINDOW_BYTES, last + 1)
        )

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer only at the end; raises what `load` raises."""
        if length <= 0:
            return b""
        end = offset + length
        last = (end - 1) // WINDOW_BYTES
        windows = range(offset // WINDOW_BYTES, last + 1)
        if self.holds(offset, length) or all(
            self._bring(window, min(end, (window + 1) * WINDOW_BYTES)) for window in windows
        ):
            with self._lock:
                if not self._is_off:
                    return os.pread(self._descriptor, max(0, min(end, self._ends[last]) - offset), offset)
        return self._load(offset, length)

    def close(self) -> None:
        """Keep nothing any more; safe to call twice."""
        with self._lock:
            self._give_up()

    def _bring(self, window: int, end: int) -> bool:
        """Have the window kept up to `end`, or up to the end of the blob; False if nothing more can be kept."""
        mine = threading.Event()
        while True:
            with self._lock:
                start = self._ends.get(window, window * WINDOW_BYTES)
                if self._is_off or start >= end:
                    return not self._is_off
                other = self._loading.setdefault(window, mine)
            if other is mine:
                break
            other.wait()
        try:
            return self._load_rest(window, start)
        finally:
            with self._lock:
                del self._loading[window]
            mine.set()

    def _load_rest(self, window: int, start: int) -> bool:
        size_bytes = (window + 1) * WINDOW_BYTES - start
        if not self._room.take(size_bytes):
            return False
        taken_bytes = size_bytes
        try:
            data = self._load(start, size_bytes)
            if self._keep(window, start, data):
                taken_bytes -= len(data)
                return True
            return False
        finally:
            self._room.give_back(taken_bytes)

    def _keep(self, window: int, start: int, data: bytes) -> bool:
        with self._lock:
            if self._is_off:
                return False
            try:
                if self._descriptor < 0:
                    self._descriptor = _open_nameless(self._room.folder)
                written = 0
                while written < len(data):
                    written += os.pwrite(self._descriptor, data[written:], start + written)
            except OSError:
                self._give_up()
                return False
            self._kept_bytes += len(data)
            self._ends[window] = start + len(data)
            return True

    def _give_up(self) -> None:
        self._is_off = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._room.give_back(self._kept_bytes)
        self._kept_bytes = 0
        self._ends.clear()


class SharedWindows:
    """What is kept of blobs that several read at the same time, such as the slices of a batch its input: kept once."""

    def __init__(self, room: CacheRoom) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._open: dict[tuple[str, object], tuple[WindowFile, int]] = {}
        """Key and version of a blob -> what is kept of it, and for how many readers."""

    def take(self, name: tuple[str, object], load: Callable[[int, int], bytes]) -> WindowFile:
        """What is kept of the blob, until as many have given it back as took it; `load` as for `WindowFile`."""
        with self._lock:
            windows, readers = self._open.get(name) or (WindowFile(self._room, load), 0)
            self._open[name] = (windows, readers + 1)
        return windows

    def give_back(self, name: tuple[str, object]) -> None:
        """One reader less."""
        with self._lock:
            windows, readers = self._open.pop(name)
            if readers > 1:
                self._open[name] = (windows, readers - 1)
                return
        windows.close()


def _open_nameless(folder: Path) -> int:
    make_folder(folder)
    descriptor, path = tempfile.mkstemp(dir=folder)
    with suppress(OSError):
        Path(path).unlink()
    return descriptor
