"""Pieces of one blob that were read once, kept on the local disk until its readers are closed.

Lines are read in any order, as those that begin alike are sent together; so what was paid for once is kept, in a file
without a name, which nothing has to tidy up. Each piece is asked for once, however many threads want it.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from backfill.errors import BackfillError
from backfill.store.permissions import make_folder

__all__ = ["CacheRoom", "SharedWindows", "WindowFile"]

WINDOW_BYTES = 1 << 20
"""Some hundred lines."""
_WINDOWS_AHEAD = 2
_NEAR_BYTES = 1 << 16
"""Of what is read on and on, in memory: a read of the disk gives the interpreter's lock away, and gets it back late."""


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

    def __init__(
        self,
        room: CacheRoom,
        load: Callable[[int, int], bytes],
        ahead: Executor | None = None,
        size_bytes: int = 0,
    ) -> None:
        """`load` gives so many bytes from an offset on, fewer only at the end of the blob.

        `ahead`: whose threads bring the windows behind the one that is read, of a blob that has `size_bytes`: so that
        who reads on and on waits for none but the first.
        """
        self._room = room
        self._load = load
        self._ahead = ahead
        self._size_bytes = size_bytes
        self._last_window = -1
        self._near = (0, b"")
        """Where it begins, and its bytes."""
        self._last_end = -1
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
        end = offset + length
        near_offset, near = self._near
        if near_offset <= offset and end <= near_offset + len(near):
            return True
        ends = self._ends
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
        near_offset, near = self._near
        if near_offset <= offset and end <= near_offset + len(near):
            self._last_end = end
            return near[offset - near_offset : end - near_offset]
        last = (end - 1) // WINDOW_BYTES
        windows = range(offset // WINDOW_BYTES, last + 1)
        if self._ahead is not None and last != self._last_window:
            self._last_window = last
            self._begin_ahead(self._ahead, last)
        if self.holds(offset, length) or all(
            self._bring(window, min(end, (window + 1) * WINDOW_BYTES)) for window in windows
        ):
            with self._lock:
                if not self._is_off:
                    return self._read_kept(offset, end, self._ends[last])
        return self._load(offset, length)

    def close(self) -> None:
        """Keep nothing any more; safe to call twice."""
        with self._lock:
            self._give_up()

    def _read_kept(self, offset: int, end: int, kept_end: int) -> bytes:
        """From the local disk; some more if the last read was right before, as the next one will then be behind it."""
        is_forward = 0 <= offset - self._last_end < _NEAR_BYTES
        self._last_end = end
        wanted_end = max(end, offset + _NEAR_BYTES) if is_forward else end
        data = os.pread(self._descriptor, max(0, min(wanted_end, kept_end) - offset), offset)
        if is_forward:
            self._near = (offset, data)
        return data[: end - offset]

    def _begin_ahead(self, ahead: Executor, window: int) -> None:
        for following in range(window + 1, window + 1 + _WINDOWS_AHEAD):
            is_there = following * WINDOW_BYTES < self._size_bytes
            if is_there and following not in self._ends and following not in self._loading:
                # Not while all is being closed.
                with suppress(RuntimeError):
                    ahead.submit(self._bring_ahead, following)

    def _bring_ahead(self, window: int) -> None:
        # Whoever needs it asks again, and hears what is the matter.
        with suppress(BackfillError):
            self._bring(window, min((window + 1) * WINDOW_BYTES, self._size_bytes))

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
        self._near = (0, b"")


class SharedWindows:
    """What is kept of blobs that several read at the same time, such as the slices of a batch its input: kept once."""

    def __init__(self, room: CacheRoom) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._open: dict[tuple[str, object], tuple[WindowFile, int]] = {}
        """Key and version of a blob -> what is kept of it, and for how many readers."""

    def take(
        self, name: tuple[str, object], load: Callable[[int, int], bytes], ahead: Executor, size_bytes: int
    ) -> WindowFile:
        """What is kept of the blob, until as many have given it back as took it; the rest as for `WindowFile`."""
        with self._lock:
            windows, readers = self._open.get(name) or (WindowFile(self._room, load, ahead, size_bytes), 0)
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
