"""Segments of journals in a store that cannot append: each is a run of objects that never change.

    journals/<batch>/<epoch>.segment/<number>    ten digits each, so that the list is in the order of reading
    journals/<batch>/<slice>-<epoch>.segment/<number>    of a batch that was cut; four digits for the slice

Each object is made with "only if there is none" and holds whole records; the one with number 0 holds the header. An
object without bytes ends the run: whoever takes the next turn puts it behind what his predecessors have written, before
he reads it. So a holder that was fenced out cannot add anything any more that nobody has seen.
"""

import threading
from bisect import bisect_right
from contextlib import suppress
from types import TracebackType
from typing import Self

from backfill.errors import NotFound, StoreUnavailable
from backfill.store.keys import chain_prefix
from backfill.store.objects.client import LONG_PATIENCE_S, Found, ObjectClient
from backfill.store.objects.windows import CacheRoom, WindowFile
from backfill.store.objects.writer import reach_point

__all__ = ["ObjectSegment", "SegmentRunReader", "fence_out"]

_GROUP_WAIT_S = 1.0
_GROUP_WAIT_MAX_S = 10.0
_GROUP_RECORDS = 256


def _name(key: str, number: int) -> str:
    return f"{key}/{number:010d}"


class ObjectSegment:
    """A segment that is being written: what `write` took waits in memory until `sync` has it stored."""

    def __init__(self, client: ObjectClient, key: str, header: bytes) -> None:
        reach_point("segment.create", "create", key)
        self._client = client
        self._key = key
        self._lock = threading.Lock()
        self._pending: list[bytes] = []
        self._number = 1
        self.size_bytes = len(header)
        if not client.create(_name(key, 0), header):
            raise StoreUnavailable(f"Cannot create {key}: there is one.")
        try:
            reach_point("segment.created", "create", key)
            fence_out(client, key)
        except StoreUnavailable:
            self.discard()
            raise

    @property
    def group_wait_s(self) -> float:
        """So long records wait for others: longer in a long segment, so that days of slow answers are not too many."""
        return min(_GROUP_WAIT_S + self._number / _GROUP_RECORDS, _GROUP_WAIT_MAX_S)

    @property
    def group_records(self) -> int:
        """So many records are stored at once without waiting for more."""
        return _GROUP_RECORDS

    def write(self, data: bytes) -> None:
        """Keep the bytes for the next `sync`."""
        reach_point("segment.write", "write", self._key)
        with self._lock:
            self._pending.append(data)
            self.size_bytes += len(data)
        reach_point("segment.written", "write", self._key)

    def begin_sync(self) -> None:
        """Nothing to do: the store is told all at once."""

    def sync(self) -> None:
        """Have the store hold all that was written before the call; after StoreUnavailable the segment is over."""
        with self._lock:
            pending, self._pending = self._pending, []
        if not pending:
            return
        reach_point("segment.sync", "sync", self._key)
        group = b"".join(pending)
        # The store may take nothing for minutes: no second copy is kept for so long.
        pending.clear()
        if not self._client.create(_name(self._key, self._number), group, LONG_PATIENCE_S):
            raise StoreUnavailable(f"Cannot write {self._key}: another process holds the batch.")
        self._number += 1
        reach_point("segment.synced", "sync", self._key)

    def end(self) -> None:
        """End the run, as whoever takes the next turn would: readers ask no more for what comes behind."""
        with suppress(StoreUnavailable):
            self._client.create(_name(self._key, self._number), b"")

    def close(self) -> None:
        """Nothing to give back."""

    def discard(self) -> None:
        """Remove it, if the store lets us: for one in which nothing stands."""
        try:
            self._client.delete([_name(self._key, 0)])
        except StoreUnavailable:
            return


def fence_out(client: ObjectClient, key: str) -> None:
    """End all segments of the same batch, or slice of one, that are older; raises StoreUnavailable if one is newer.

    Its own first object has to be there already: of two that do this at the same time, at least one sees the other.
    """
    ends: dict[str, Found] = {}
    of_chain = chain_prefix(key)
    for found in client.list_all(key.rpartition("/")[0], of_chain):
        segment, _, number = found.key.rpartition("/")
        if number.isdigit() and chain_prefix(segment) == of_chain:
            ends[segment] = found
    if max(ends, default=key) > key:
        raise StoreUnavailable(f"Cannot write {key}: another process has taken a later turn on the batch.")
    for segment, last in ends.items():
        if segment < key and last.size_bytes:
            _end(client, segment, int(last.key.rpartition("/")[2]) + 1)


def _end(client: ObjectClient, segment: str, number: int) -> None:
    while not client.create(_name(segment, number), b""):
        # Its holder was quicker, or another one who ends it.
        if client.head(_name(segment, number)).size_bytes == 0:
            return
        number += 1


class SegmentRunReader:
    """The objects of a segment, read as one that grows."""

    def __init__(self, client: ObjectClient, room: CacheRoom, key: str) -> None:
        self._client = client
        self._key = key
        self._lock = threading.Lock()
        self._objects: list[Found] = []
        self._starts: list[int] = []
        self._size_bytes = 0
        self._is_ended = False
        self._windows = WindowFile(room, self.read)
        self._look()
        if not self._objects:
            raise NotFound(f"There is no segment {key}.")
        self._is_fresh = True

    @property
    def size_bytes(self) -> int:
        """The size now: asks the store unless the segment was ended."""
        with self._lock:
            if not self._is_fresh and not self._is_ended:
                self._look()
            self._is_fresh = False
            return self._size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises StoreUnavailable if the store fails."""
        reach_point("blob.read", "read", self._key)
        end = min(offset + length, self._size_bytes)
        if offset >= end:
            return b""
        parts: list[tuple[str, int, int]] = []
        place = bisect_right(self._starts, offset) - 1
        while place < len(self._objects) and self._starts[place] < end:
            found, start = self._objects[place], self._starts[place]
            parts.append((found.key, max(0, offset - start), min(found.size_bytes, end - start)))
            place += 1
        return b"".join(self._client.each(lambda part: self._client.get(*part), parts))

    def read_on(self, offset: int, length: int) -> bytes:
        """The same, for a caller that reads many bodies: each part of the segment is asked for once."""
        return self._windows.read(offset, length)

    def is_at_hand(self, offset: int, length: int) -> bool:
        """Whether `read_on` of these bytes needs no call."""
        return length > 0 and self._windows.holds(offset, length)

    def sync(self) -> None:
        """Nothing to do: what can be read is durable."""

    def close(self) -> None:
        """Give back what is kept; safe to call twice."""
        self._windows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look(self) -> None:
        after = self._objects[-1].key if self._objects else None
        for found in self._client.list_all(self._key, after):
            number = len(self._objects)
            # What lies behind a gap was written behind a header that is gone: nothing counts there.
            if self._is_ended or found.key != _name(self._key, number):
                return
            if found.size_bytes == 0:
                self._is_ended = True
                return
            self._objects.append(found)
            self._starts.append(self._size_bytes)
            self._size_bytes += found.size_bytes
