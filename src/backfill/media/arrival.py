"""Bytes that arrive: counted, recognised and written to disk as they come, and only kept if they are what is wanted."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from backfill.config import MediaConfig
from backfill.media.cached_name import CachedName
from backfill.media.failures import MediaRefused
from backfill.media.formats import HEAD_BYTES
from backfill.media.inspection import MediaFacts, check_format, check_size, inspect_media
from backfill.media_file import MediaKind
from backfill.store import FileNamedLater, remove_file, telling

__all__ = ["Arrival", "run_whole"]

_PIECE_BYTES = 1 << 20
_Result = TypeVar("_Result")


async def run_whole(work: Callable[[], _Result]) -> _Result:
    """Do it in a thread; who is cancelled meanwhile waits until it is done, so that nothing goes on behind him."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


class Arrival:
    """One file that comes; a context manager, after which nothing half is left."""

    def __init__(self, folder: Path, kind: MediaKind, config: MediaConfig, note: Callable[[int], None]) -> None:
        """`note` is told how many bytes more, or fewer, are on disk."""
        self._folder = folder
        self._kind = kind
        self._config = config
        self._note = note
        self._writer: FileNamedLater | None = None
        self._digest = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._noted_bytes = 0
        self._head = b""
        self._is_known = False
        self._is_finished = False
        self._sealed: Path | None = None
        self.size_bytes = 0

    def expect(self, size_bytes: int, subject: str) -> None:
        """So much is announced; raises MediaRefused if that is too much."""
        check_size(size_bytes, self._kind, self._config, subject)

    async def take(self, data: bytes, subject: str) -> None:
        """Take more; raises MediaRefused as soon as it is too much or not what is wanted, and StoreUnavailable."""
        self.size_bytes += len(data)
        check_size(self.size_bytes, self._kind, self._config, subject)
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        if not self._is_known:
            self._head += data[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                check_format(self._head, self._kind, subject)
                self._is_known = True
        if self._waiting_bytes >= _PIECE_BYTES:
            await run_whole(self._write)
            self._note_written()

    async def finish(self, key: str, subject: str) -> Path:
        """That was all: look at it and keep it under its name; raises MediaRefused and StoreUnavailable."""
        sealed = await run_whole(lambda: self._seal(key, subject))
        self._note_written()
        self._is_finished = True
        return sealed

    def _note_written(self) -> None:
        self._note(self.size_bytes - self._waiting_bytes - self._noted_bytes)
        self._noted_bytes = self.size_bytes - self._waiting_bytes

    def _write(self) -> None:
        if self._writer is None:
            self._writer = FileNamedLater(self._folder)
        for piece in self._pieces:
            self._writer.write(piece)
            self._digest.update(piece)
        self._pieces.clear()
        self._waiting_bytes = 0

    def _seal(self, key: str, subject: str) -> Path:
        self._write()
        writer = self._writer
        if writer is None:  # `_write` made one
            raise MediaRefused(f"{subject} holds nothing.")
        written = writer.finish()
        with telling("read", written):
            facts = inspect_media(written, self._kind, self._config, subject)
        self._sealed = writer.seal_as(self._make_name(key, facts))
        return self._sealed

    def _make_name(self, key: str, facts: MediaFacts) -> str:
        name = CachedName(
            key, self._digest.hexdigest(), facts.width, facts.height, facts.duration_ms, facts.format.extension
        )
        return name.render(secrets.token_hex(4))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None and not self._is_finished:
            self._note(-self._noted_bytes)
            await run_whole(self._drop)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.abort()
        if self._sealed is not None:
            # Whoever waited for it went just then, and nobody was told.
            remove_file(self._sealed)
