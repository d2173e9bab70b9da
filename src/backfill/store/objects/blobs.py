"""Blobs and journals under one prefix of a bucket."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from backfill.errors import NotFound
from backfill.store.blobs import BlobMark, BlobWriter
from backfill.store.objects.client import ObjectClient
from backfill.store.objects.copies import LocalCopies
from backfill.store.objects.reader import AHEAD_BYTES, ObjectReader
from backfill.store.objects.segments import ObjectSegment, SegmentRunReader
from backfill.store.objects.windows import CacheRoom, SharedWindows
from backfill.store.objects.writer import ObjectWriter, reach_point

__all__ = ["ObjectBlobs"]

_SEGMENT_SUFFIX = ".segment"
_GONE = "gone"
"""What says of a journal that it is being removed."""


class ObjectBlobs:
    """Blobs in an object store. Each call asks it, so that all are meant for a worker thread, but for `create`."""

    def __init__(self, client: ObjectClient, room: CacheRoom) -> None:
        """`room`: where on the local disk what was read may be kept, and how much of it."""
        self._client = client
        self._room = room
        self._windows = SharedWindows(room)
        self._copies = LocalCopies(client, room.folder)

    @property
    def is_near(self) -> bool:
        """Nothing is."""
        return False

    def close(self) -> None:
        """Try nothing again any more, and end what nobody waits for."""
        self._client.close()

    def create(self, key: str) -> ObjectWriter:
        """Begin a blob; one of the same key is replaced when it is sealed."""
        return ObjectWriter(self._client, key)

    def write(self, key: str, data: bytes, *, sync_folder: bool = True) -> None:
        """Write a whole blob."""
        with self.create(key) as writer:
            writer.write(data)
            writer.seal(sync_folder=sync_folder)

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write a whole blob if there is none, and give what is there."""
        return data if self._client.create(key, data) else self.read(key)

    def seal_together(self, writers: Sequence[BlobWriter]) -> None:
        """Seal blobs that `create` gave, those of one folder in this order; if it fails some may be there."""
        folders: dict[str, list[ObjectWriter]] = {}
        for writer in writers:
            assert isinstance(writer, ObjectWriter)  # noqa: S101 - they are this store's own
            folders.setdefault(writer.folder, []).append(writer)
        self._client.each(_seal_each, list(folders.values()))

    def open(self, key: str) -> ObjectReader:
        """Open for random reads; raises NotFound."""
        return ObjectReader(self._client, self._windows, key)

    def look_at(self, key: str) -> BlobMark:
        """Its size and ETag; raises NotFound."""
        found = self._client.head(key)
        return BlobMark(found.size_bytes, found.version)

    def read(self, key: str) -> bytes:
        """The whole blob; raises NotFound."""
        reach_point("blob.read", "read", key)
        return self._client.get_whole(key)

    def read_chunks(self, key: str, offset: int, length: int, chunk_bytes: int = 1 << 18) -> Iterator[bytes]:
        """The bytes from `offset` on, `length` of them, in pieces; raises NotFound."""
        with self.open(key) as reader:
            end = min(offset + length, reader.size_bytes)
            while offset < end:
                data = reader.read(offset, min(AHEAD_BYTES, end - offset))
                yield from (data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))
                offset += len(data)

    def fetch(self, key: str) -> Path:
        """A copy on the local disk, which may go at any time; raises NotFound."""
        return self._copies.fetch(key)

    def exists(self, key: str) -> bool:
        """Whether there is such a blob."""
        try:
            self._client.head(key)
        except NotFound:
            return False
        return True

    def list_folders(self, prefix: str) -> list[str]:
        """The names of the folders right under the folder `prefix`, sorted.

        A store that has real folders may name one for a while in which nothing is any more.
        """
        return self._client.list_folder(prefix)[0]

    def find_folders(self, prefix: str, name: str) -> set[str]:
        """The names of the folders right under `prefix` that hold a blob `name`, or a folder with something in it."""
        ways = (found.key.removeprefix(f"{prefix}/").split("/") for found in self._client.list_all(prefix))
        return {way[0] for way in ways if len(way) > 1 and way[1] == name}

    def list_settled(self, prefix: str, before_ms: int) -> Sequence[str]:
        """The names of the folders right under `prefix` in which nothing was written since then."""
        changed_at_ms: dict[str, int] = {}
        for found in self._client.list_all(prefix):
            name, inside, _ = found.key.removeprefix(f"{prefix}/").partition("/")
            if inside:
                changed_at_ms[name] = max(changed_at_ms.get(name, 0), found.changed_at_ms)
        return sorted(name for name, changed_ms in changed_at_ms.items() if changed_ms < before_ms)

    def measure(self, prefix: str) -> int:
        """How many bytes lie under a folder; "": in all."""
        return sum(found.size_bytes for found in self._client.list_all(prefix))

    def delete(self, key: str) -> None:
        """Remove a blob if it is there; raises StoreUnavailable."""
        reach_point("blob.remove", "remove", key)
        self._client.delete([key])

    def remove_all(self, keys: Iterable[str], prefix: str) -> None:  # noqa: ARG002 - what is removed stays removed
        """Remove blobs of one folder, those of them that are there."""
        self._client.delete(list(keys))

    def delete_folder(self, prefix: str) -> None:
        """Remove all blobs under a folder; raises StoreUnavailable if something stays."""
        reach_point("blob.remove", "remove", prefix)
        self._client.delete([found.key for found in self._client.list_all(prefix)])

    def rename(self, key: str, new_key: str) -> None:
        """Give a blob another name: for an instant it has both. Raises NotFound."""
        self._client.copy(key, new_key)
        self._client.delete([key])

    def put_aside(self, prefix: str, place: str) -> str:
        """Move a folder under the folder `place`, blob by blob; its name there begins with the time, in ms."""
        above, _, name = prefix.rpartition("/")
        target = f"{place}/{time.time_ns() // 1_000_000}-{above.rpartition('/')[2]}-{name}"
        keys = [found.key for found in self._client.list_all(prefix)]
        self._client.each(lambda key: self._client.copy(key, target + key.removeprefix(prefix)), keys)
        self._client.delete(keys)
        return target

    def sweep(self) -> int:
        """Nothing is ever there in half; copies on the local disk go."""
        self._copies.clear()
        return 0

    def append_to(self, key: str, header: bytes) -> ObjectSegment:
        """Begin a segment, and end those before it; raises StoreUnavailable if the key exists, or a later one."""
        return ObjectSegment(self._client, key, header)

    def list_segments(self, prefix: str) -> list[str]:
        """Keys of the segments right under the folder `prefix`, sorted; none if they are being removed."""
        keys = [found.key for found in self._client.list_all(prefix)]
        if f"{prefix}/{_GONE}" in keys:
            return []
        return sorted({key.rpartition("/")[0] for key in keys if key.endswith(f"{_SEGMENT_SUFFIX}/{0:010d}")})

    def open_segment(self, key: str) -> SegmentRunReader:
        """Open a segment, which may still grow; raises NotFound."""
        return SegmentRunReader(self._client, self._room, key)

    def remove_segments(self, prefix: str) -> None:
        """Remove a folder of segments: first it is told that they are gone, and that goes last."""
        gone = f"{prefix}/{_GONE}"
        self._client.put(gone, b"")
        self._client.delete([found.key for found in self._client.list_all(prefix) if found.key != gone])
        self._client.delete([gone])

    def probe(self) -> None:
        """Try whether bytes are taken now; raises StoreUnavailable."""
        self._client.put("probe", b"probe")
        with suppress(NotFound):
            self._client.delete(["probe"])

    def list(self, prefix: str) -> list[str]:
        """Keys of whole blobs right under the folder `prefix`, sorted."""
        return self._client.list_folder(prefix)[1]


def _seal_each(writers: Sequence[ObjectWriter]) -> None:
    for writer in writers:
        writer.seal()
