"""Bytes under keys, as every room uses them, wherever they lie: on the local disk or in an object store.

A key is a relative path with `/`. A blob is whole or it is not there; a segment of a journal is the one thing that
grows. Calls block and are meant for a worker thread; what may be called in the event loop says so.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

__all__ = ["BlobMark", "BlobReader", "BlobWriter", "Blobs", "SegmentFile"]


class BlobMark(NamedTuple):
    """What a blob looks like from outside; another once its bytes have changed."""

    size_bytes: int
    version: Hashable


class BlobWriter(Protocol):
    """A blob that is being written; nobody sees it before `seal`."""

    @property
    def size_bytes(self) -> int:
        """What was written so far."""

    def write(self, data: bytes) -> None:
        """Append bytes; raises StoreUnavailable if no more are taken."""

    def seal(self, *, sync_folder: bool = True) -> None:
        """Make the blob durable and visible under its key, in one step.

        Without `sync_folder` it may be durable only once another blob in the same folder is sealed.
        """

    def abort(self) -> None:
        """Drop what was written; safe after `seal`, twice, and in the event loop."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `abort`."""


class BlobReader(Protocol):
    """Random reads of one blob or segment."""

    @property
    def size_bytes(self) -> int:
        """The size now: a segment may still grow."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises StoreUnavailable if they cannot be had."""

    def read_on(self, offset: int, length: int) -> bytes:
        """The same of bytes that change no more, for a caller that reads many lines: most calls need no store."""

    def is_at_hand(self, offset: int, length: int) -> bool:
        """Whether `read_on` of these bytes costs less than the way to a worker thread; (0, 0): always of any bytes."""

    def sync(self) -> None:
        """Have the store hold what can be read now, whoever wrote it; raises StoreUnavailable if it does not."""

    def close(self) -> None:
        """Give back what the reader holds; safe to call twice, and in the event loop."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `close`."""


class SegmentFile(Protocol):
    """A segment that is being written, by one holder of a turn; it only grows."""

    @property
    def group_wait_s(self) -> float:
        """So long records wait for others to be synced with."""

    @property
    def group_records(self) -> int:
        """So many records are synced at once without waiting for more."""

    @property
    def size_bytes(self) -> int:
        """The size now, also after a write of which nobody knows how far it came."""

    def write(self, data: bytes) -> None:
        """Append all of `data`. Quick, for the event loop; after StoreUnavailable nothing more must be written."""

    def begin_sync(self) -> None:
        """Have the store begin on what was written, without waiting."""

    def sync(self) -> None:
        """Have the store hold all that was written before the call; raises StoreUnavailable."""

    def end(self) -> None:
        """Tell readers that nothing more comes, if they would look again and again."""

    def close(self) -> None:
        """Give back what it holds; safe to call twice, and in the event loop."""

    def discard(self) -> None:
        """Close and remove it, if the store lets us: for one in which nothing stands."""


class Blobs(Protocol):
    """Blobs and journals of one installation."""

    @property
    def is_near(self) -> bool:
        """Whether `look_at` and small reads cost less than the way to a worker thread."""

    def close(self) -> None:
        """Give back what it holds. What is asked of it afterwards may fail at once."""

    def create(self, key: str) -> BlobWriter:
        """Begin a blob; one of the same key is replaced when it is sealed. For the event loop too."""

    def write(self, key: str, data: bytes, *, sync_folder: bool = True) -> None:
        """Write a whole blob; `sync_folder` as for `BlobWriter.seal`."""

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write a whole blob if there is none, and give what is there. In a folder only for who has its lock."""

    def seal_together(self, writers: Sequence[BlobWriter]) -> None:
        """Seal blobs that `create` gave, those of one folder in this order; if it fails some may be there."""

    def open(self, key: str) -> BlobReader:
        """Open for random reads; raises NotFound."""

    def look_at(self, key: str) -> BlobMark:
        """What the blob looks like; raises NotFound."""

    def read(self, key: str) -> bytes:
        """The whole blob; raises NotFound."""

    def read_chunks(self, key: str, offset: int, length: int, chunk_bytes: int = 1 << 18) -> Iterator[bytes]:
        """The bytes from `offset` on, `length` of them, in pieces; raises NotFound."""

    def fetch(self, key: str) -> Path:
        """Where the whole blob lies on this machine, for what reads only files; a copy may go at any time.

        Raises NotFound.
        """

    def exists(self, key: str) -> bool:
        """Whether there is such a blob."""

    def list_folders(self, prefix: str) -> list[str]:
        """The names of the folders right under the folder `prefix`, sorted.

        An object store may name one for a while in which nothing is any more.
        """

    def find_folders(self, prefix: str, name: str) -> set[str]:
        """The names of the folders right under `prefix` that hold a blob `name`, or a folder with something in it."""

    def list_settled(self, prefix: str, before_ms: int) -> Sequence[str]:
        """The names of the folders right under `prefix` in which nothing was written since then, by the store's clock.

        In milliseconds since the epoch; what is written now is not seen before it is there.
        """

    def measure(self, prefix: str) -> int:
        """How many bytes lie under a folder; 0 if there is none."""

    def delete(self, key: str) -> None:
        """Remove a blob if it is there, and its folder if that was the last one in it; raises StoreUnavailable."""

    def remove_all(self, keys: Iterable[str], prefix: str) -> None:
        """Remove blobs of one folder, those of them that are there, so that no power cut brings them back."""

    def delete_folder(self, prefix: str) -> None:
        """Remove all blobs under a folder, and the folder; raises StoreUnavailable if something stays."""

    def rename(self, key: str, new_key: str) -> None:
        """Give a blob another name in its folder; a power cut may take that back. Raises NotFound."""

    def put_aside(self, prefix: str, place: str) -> str:
        """Move a folder with all that is in it under the folder `place`; its name there begins with the time, in ms."""

    def sweep(self) -> int:
        """Remove what writers that died left half-written, and say how many; only while nobody else writes."""

    def append_to(self, key: str, header: bytes) -> SegmentFile:
        """Begin a segment with these bytes; raises StoreUnavailable if the key exists."""

    def list_segments(self, prefix: str) -> list[str]:
        """Keys of the segments right under the folder `prefix`, sorted."""

    def open_segment(self, key: str) -> BlobReader:
        """Open a segment, which may still grow; raises NotFound."""

    def remove_segments(self, prefix: str) -> None:
        """Remove a folder of segments, in one step for whoever lists it."""

    def probe(self) -> None:
        """Try whether bytes are taken now; raises StoreUnavailable."""

    # The last one, as the name is that of a type above.
    def list(self, prefix: str) -> list[str]:
        """Keys of whole blobs right under the folder `prefix`, sorted."""
