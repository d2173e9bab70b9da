"""A blob that is being written to an object store: in one call if it is small, else in parts while it arrives."""

from types import TracebackType
from typing import Self

import obstore
from obstore.exceptions import BaseError

from backfill.errors import StoreUnavailable
from backfill.store.faults import reach
from backfill.store.objects.client import ObjectClient, make_unavailable

__all__ = ["ObjectWriter", "reach_point"]

_PART_BYTES = 8 << 20
# With the part that is being filled, an upload needs so much memory and one part more.
_PARTS_AT_ONCE = 3


def reach_point(point: str, verb: str, key: str) -> None:
    """As `faults.reach`, for a place that is no file."""
    try:
        reach(point)
    except OSError as error:
        raise StoreUnavailable(f"Cannot {verb} {key}: {error.strerror}.") from error


class ObjectWriter:
    """A blob that nobody sees before `seal`."""

    def __init__(self, client: ObjectClient, key: str) -> None:
        reach_point("blob.create", "create", key)
        self._client = client
        self._key = key
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._upload: obstore.WritableFile | None = None
        self.size_bytes = 0

    @property
    def folder(self) -> str:
        """Where the blob lies."""
        return self._key.rpartition("/")[0]

    def write(self, data: bytes) -> None:
        """Append bytes; raises StoreUnavailable if the store takes no more."""
        reach_point("blob.write", "write", self._key)
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.size_bytes += len(data)
        if self._pending_bytes >= _PART_BYTES:
            self._send()

    def seal(self, *, sync_folder: bool = True) -> None:  # noqa: ARG002 - what was taken is durable, and so is its name
        """Make the blob visible; what the store has taken is durable."""
        reach_point("blob.written", "write", self._key)
        if self._upload is None:
            self._client.put(self._key, self._take())
        else:
            self._send()
            upload, self._upload = self._upload, None
            try:
                upload.close()
            except (BaseError, OSError) as error:
                raise make_unavailable("write", self._key, error) from None
        reach_point("blob.synced", "write", self._key)
        reach_point("blob.sealed", "write", self._key)

    def abort(self) -> None:
        """Drop what was written; the store forgets the parts that it has, a little later."""
        self._pending.clear()
        upload, self._upload = self._upload, None
        if upload is not None:
            self._client.threads.submit(_forget, upload)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _take(self) -> bytes:
        data = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        return data

    def _send(self) -> None:
        if self._upload is None:
            self._upload = obstore.open_writer(
                self._client.uploads, self._key, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        try:
            self._upload.write(self._take())
        except (BaseError, OSError) as error:
            raise make_unavailable("write", self._key, error) from None


def _forget(upload: "obstore.WritableFile") -> None:
    # Its `__exit__` is the one way to have an upload dropped. What cannot be dropped now goes by the bucket's own rule.
    aborted = StoreUnavailable("aborted")
    try:
        upload.__exit__(type(aborted), aborted, None)
    except (BaseError, OSError):
        return
