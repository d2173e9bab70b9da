"""Random reads of one object: what is read on and on comes in large pieces, what is read here and there is kept."""

from types import TracebackType
from typing import Self

from backfill.store.objects.client import ObjectClient
from backfill.store.objects.windows import SharedWindows
from backfill.store.objects.writer import reach_point

__all__ = ["AHEAD_BYTES", "ObjectReader"]

AHEAD_BYTES = 4 << 20
"""So much is asked for at once by who reads from the front to the end."""


class ObjectReader:
    """One blob, as it was when it was opened: once it is replaced, a read raises NotFound."""

    def __init__(self, client: ObjectClient, shared: SharedWindows, key: str) -> None:
        reach_point("blob.read", "read", key)
        found = client.head(key)
        self._client = client
        self._key = key
        self._version = found.version or None
        self.size_bytes = found.size_bytes
        self._shared = shared
        # What has no version may be another blob by now, and is nobody else's.
        self._name = (key, found.version or object())
        self._windows = shared.take(self._name, self._load, client.threads, self.size_bytes)
        self._is_closed = False
        self._ahead = b""
        self._ahead_offset = 0
        self._next_offset = -1
        """Where a read begins that goes on from the last one."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises StoreUnavailable if the store fails."""
        start = offset - self._ahead_offset
        if 0 <= start <= len(self._ahead) - length:
            data = self._ahead[start : start + length]
        elif offset == self._next_offset and length < AHEAD_BYTES:
            self._ahead, self._ahead_offset = self._load(offset, AHEAD_BYTES), offset
            data = self._ahead[:length]
        else:
            data = self._load(offset, length)
        self._next_offset = offset + len(data)
        return data

    def read_on(self, offset: int, length: int) -> bytes:
        """The same, for a caller that reads many lines of it: each part of the object is asked for once."""
        return self._windows.read(offset, length)

    def is_at_hand(self, offset: int, length: int) -> bool:
        """Whether `read_on` of these bytes needs no call."""
        return length > 0 and self._windows.holds(offset, length)

    def sync(self) -> None:
        """Nothing to do: what can be read is durable."""

    def close(self) -> None:
        """Give back what is kept; safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            self._shared.give_back(self._name)
        self._ahead = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, offset: int, length: int) -> bytes:
        reach_point("blob.read", "read", self._key)
        end = min(offset + length, self.size_bytes)
        return self._client.get(self._key, offset, end, self._version) if offset < end else b""
