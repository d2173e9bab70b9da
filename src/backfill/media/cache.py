"""What was fetched, on disk: found again by the next turn and the next process, bounded, gone with its batch.

Each batch has a folder, each file a name that says all about it. A file is whole or not there (`store.FileNamedLater`),
so the folders are all that there is to read after a crash. All but what says so runs in the event loop and is quick.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import structlog

from backfill.errors import StoreUnavailable
from backfill.media.arrival import run_whole
from backfill.media.cached_name import read_name
from backfill.media_file import MediaFile
from backfill.store import LocalBlobs, is_unfinished, remove_file, telling

__all__ = ["MediaCache"]

_log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    batch_id: str
    key: str


class MediaCache:
    """The files of all batches, least recently used first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._blobs = LocalBlobs(folder)
        self._limit_bytes = limit_bytes
        self._files: dict[_Place, MediaFile] = {}
        self._pins: dict[_Place, int] = {}
        self._condemned: dict[Path, int] = {}
        """What is to go, and how large it is: not found any more, and counted until it is gone."""
        self._size_bytes = 0
        self._loading: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None

    @property
    def size_bytes(self) -> int:
        """What is on disk, half-written files too."""
        return self._size_bytes

    def batch_folder(self, batch_id: str) -> Path:
        """Where the files of a batch lie."""
        return self._folder / batch_id

    async def load(self) -> None:
        """Learn what is there, once; raises StoreUnavailable."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        found = await asyncio.to_thread(_read_folders, self._blobs)
        for place, file in found.files.items():
            if place not in self._files:
                self._files[place] = file
                self._size_bytes += file.size_bytes
        self._condemned |= found.leftovers
        self._size_bytes += sum(found.leftovers.values())
        self._trim()

    def find(self, batch_id: str, key: str) -> MediaFile | None:
        """The file, if it is here; then it is the most recently used."""
        place = _Place(batch_id, key)
        file = self._files.pop(place, None)
        if file is None:
            return None
        if not file.path.exists():
            # Somebody else made room.
            self._size_bytes -= file.size_bytes
            return None
        self._files[place] = file
        return file

    def add(self, batch_id: str, key: str, path: Path) -> MediaFile:
        """Take a file in that was sealed, and whose bytes were noted."""
        name = read_name(path.name)
        if name is None:
            raise ValueError(path.name)
        file = name.describe(path, path.stat().st_size)
        self._files[_Place(batch_id, key)] = file
        return file

    def pin(self, batch_id: str, key: str) -> None:
        """Keep a file, if it is here, until as many `unpin`."""
        place = _Place(batch_id, key)
        self._pins[place] = self._pins.get(place, 0) + 1

    def unpin(self, batch_id: str, key: str) -> None:
        """See `pin`."""
        place = _Place(batch_id, key)
        left = self._pins[place] - 1
        if left:
            self._pins[place] = left
            return
        del self._pins[place]
        self._trim()

    def note(self, size_bytes: int) -> None:
        """So many bytes more are on disk, or fewer."""
        self._size_bytes += size_bytes
        self._trim()

    def make_room(self) -> None:
        """Let go of all that nobody uses: the disk is full."""
        self._trim(limit_bytes=0)

    def _trim(self, limit_bytes: int | None = None) -> None:
        limit_bytes = self._limit_bytes if limit_bytes is None else limit_bytes
        left_bytes = self._size_bytes - sum(self._condemned.values())
        if left_bytes > limit_bytes:
            for place, file in list(self._files.items()):
                if place not in self._pins:
                    del self._files[place]
                    self._condemned[file.path] = file.size_bytes
                    left_bytes -= file.size_bytes
                    if left_bytes <= limit_bytes:
                        break
        if self._condemned and (self._trimming is None or self._trimming.done()):
            self._trimming = asyncio.create_task(self._remove_condemned())

    async def _remove_condemned(self) -> None:
        """Remove what is to go; what cannot be removed now is tried again when the next one goes."""
        tried: set[Path] = set()
        while paths := self._condemned.keys() - tried:
            tried |= paths
            failures = await asyncio.to_thread(_remove_each, paths)
            for path in paths - failures.keys():
                self._size_bytes -= self._condemned.pop(path, 0)
            if failures:
                reason = next(iter(failures.values()))
                _log.warning("fetched files cannot be removed", count=len(failures), reason=reason.message)

    async def list_batches(self) -> list[str]:
        """Those that have a folder; raises StoreUnavailable."""
        return await asyncio.to_thread(self._blobs.list_folders, "")

    async def remove(self, batch_id: str) -> None:
        """Remove all of a batch that has ended; raises StoreUnavailable if something stays."""
        folder = self.batch_folder(batch_id)
        for place in [place for place in self._files if place.batch_id == batch_id]:
            file = self._files.pop(place)
            self._condemned[file.path] = file.size_bytes
        await run_whole(lambda: self._blobs.delete_folder(batch_id))
        for path in [path for path in self._condemned if path.parent == folder]:
            self._size_bytes -= self._condemned.pop(path)

    async def sweep(self, kept: Iterable[str]) -> int:
        """Remove the folders of all batches but these, and say how many; raises StoreUnavailable."""
        await self.load()
        kept = frozenset(kept)
        folders = await asyncio.to_thread(self._blobs.list_folders, "")
        over = [batch_id for batch_id in folders if batch_id not in kept]
        for batch_id in over:
            await self.remove(batch_id)
        return len(over)

    async def close(self) -> None:
        """Wait for what is being removed."""
        for task in (self._loading, self._trimming):
            if task is not None:
                await asyncio.wait([task])


class _Found(NamedTuple):
    files: dict[_Place, MediaFile]
    leftovers: dict[Path, int]


def _read_folders(blobs: LocalBlobs) -> _Found:
    """What lies in the folders, oldest first; and what no reader should find."""
    found: list[tuple[int, _Place, MediaFile]] = []
    leftovers: dict[Path, int] = {}
    with telling("list", blobs.root):
        for batch_id in blobs.list_folders(""):
            for path in (blobs.root / batch_id).iterdir():
                looks = path.stat()
                name = read_name(path.name)
                if name is not None:
                    file = name.describe(path, looks.st_size)
                    found.append((looks.st_mtime_ns, _Place(batch_id, name.key), file))
                elif is_unfinished(path.name):
                    leftovers[path] = looks.st_size
    files: dict[_Place, MediaFile] = {}
    for _, place, file in sorted(found, key=lambda one: one[0]):
        if place in files:
            leftovers[files[place].path] = files[place].size_bytes
        files[place] = file
    return _Found(files, leftovers)


def _remove_each(paths: Iterable[Path]) -> dict[Path, StoreUnavailable]:
    failures: dict[Path, StoreUnavailable] = {}
    for path in paths:
        try:
            remove_file(path)
        except StoreUnavailable as error:
            failures[path] = error
    return failures
