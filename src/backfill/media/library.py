"""The pictures and clips of all batches: asked for by reference, fetched once a batch, tried again, kept on disk."""

import asyncio
import functools
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from backfill.config import MediaConfig
from backfill.errors import StoreUnavailable
from backfill.media.arrival import Arrival
from backfill.media.cache import MediaCache
from backfill.media.cached_name import make_key
from backfill.media.data_urls import decode_data_url, is_data_url
from backfill.media.failed_request import TransferFailed
from backfill.media.failures import MediaFailure, MediaRefused, MediaUnavailable
from backfill.media.flights import Flights
from backfill.media.inspection import check_file, find_limit
from backfill.media.local_files import LocalFiles
from backfill.media.transfer import Transfer
from backfill.media_file import MediaFile, MediaReference
from backfill.network import describe_link

__all__ = ["BatchMedia", "FindUpload", "MediaLibrary"]

FindUpload = Callable[[str, str], Awaitable[MediaFile | None]]
"""File id, owner -> the file, None if he has none of this id."""

_UPLOAD = re.compile(r"file-[A-Za-z0-9_-]{1,100}")
_BACKOFF_S = 0.5
_BACKOFF_MAX_S = 30.0
# A server that asks for more is asked again all the same: the request's deadline does not wait for it.
_RETRY_AFTER_MAX_S = 300.0
# What was refused is known for so many references of a batch; more than that are fetched again.
_FAILURES_MAX = 10_000
_SUBJECT_OF_DATA = "The data: URL"
_log = structlog.get_logger(__name__)


class MediaLibrary:
    """One for the data directory."""

    def __init__(
        self,
        folder: Path,
        config: MediaConfig,
        find_upload: FindUpload | None = None,
        local: LocalFiles | None = None,
    ) -> None:
        """`folder` is made; raises StoreUnavailable. `find_upload` None: no file ids are taken; `local`: no paths."""
        self.config = config
        self._find_upload = find_upload
        self._local = local
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret
        self._transfer: Transfer | None = None
        self.cache = MediaCache(folder, config.cache_size_bytes)
        self.flights = Flights()

    def open(self, batch_id: str, owner: str) -> "BatchMedia":
        """A hold of what a batch names; `owner` is whose uploaded files it may name."""
        return BatchMedia(self, batch_id, owner)

    async def list_batches(self) -> list[str]:
        """Those of which something lies on disk; raises StoreUnavailable."""
        return await self.cache.list_batches()

    async def remove(self, batch_id: str) -> None:
        """Forget a batch that has ended; raises StoreUnavailable if something of it stays on disk."""
        await self.flights.cancel(batch_id)
        await self.cache.remove(batch_id)

    async def sweep(self, kept: Iterable[str]) -> int:
        """At the start: forget all batches but these, and learn what there is of them; gives how many went.

        Raises StoreUnavailable.
        """
        return await self.cache.sweep(kept)

    async def close(self) -> None:
        """Stop all fetches, and leave nothing half-written."""
        await self.flights.cancel()
        if self._transfer is not None:
            await self._transfer.close()
        await self.cache.close()

    def is_here(self, source: str) -> bool:
        """Whether it is a file that need not be brought: an upload, or one of the user's disk."""
        return _is_upload(source) or (self._local is not None and self._local.owns(source))

    async def find_upload(self, file_id: str, owner: str) -> MediaFile:
        """A file that is here; raises MediaRefused."""
        if self._local is not None and not _is_upload(file_id):
            return await self._local.find(file_id)
        found = None if self._find_upload is None else await self._find_upload(file_id, owner)
        if found is None:
            raise MediaRefused(f"There is no file {file_id}.")
        return found

    async def bring(self, batch_id: str, owner: str, reference: MediaReference, key: str) -> MediaFile:
        """Have it on disk; raises MediaFailure and StoreUnavailable."""
        await self.cache.load()
        found = self.cache.find(batch_id, key)
        if found is not None:
            return found
        try:
            if is_data_url(reference.source):
                return await self._unpack(batch_id, reference, key)
            return await self._fetch(batch_id, owner, reference, key)
        except StoreUnavailable:
            # If that was for want of room, there is more when it is tried again.
            self.cache.make_room()
            raise

    async def _unpack(self, batch_id: str, reference: MediaReference, key: str) -> MediaFile:
        limit_bytes, setting = find_limit(reference.kind, self.config)
        data = await asyncio.to_thread(decode_data_url, reference.source, limit_bytes, setting)
        async with self._begin(batch_id, reference) as arrival:
            await arrival.take(data, _SUBJECT_OF_DATA)
            return self.cache.add(batch_id, key, await arrival.finish(key, _SUBJECT_OF_DATA))

    async def _fetch(self, batch_id: str, owner: str, reference: MediaReference, key: str) -> MediaFile:
        if self.config.links == "refuse":
            raise MediaRefused("Links are not taken on this server (media.links).")
        if self._transfer is None:
            self._transfer = Transfer(self.config)
        link = self._transfer.check(reference.source)
        subject = describe_link(link)
        tries = 0
        while True:
            tries += 1
            try:
                async with self._begin(batch_id, reference) as arrival:
                    await self._transfer.run(link, owner, arrival)
                    return self.cache.add(batch_id, key, await arrival.finish(key, subject))
            except TransferFailed as failure:
                if tries >= self.config.tries:
                    message = f"{subject} {failure.reason} (given up after {tries} tries)."
                    raise MediaUnavailable(message) from None
                delay_s = self._choose_delay_s(failure, tries)
                # The host alone, as for webhooks.
                _log.info(
                    "a fetch is tried again",
                    batch=batch_id,
                    host=link.raw_host,
                    reason=failure.reason,
                    tries=tries,
                    again_in_s=round(delay_s, 3),
                )
            await asyncio.sleep(delay_s)

    def _begin(self, batch_id: str, reference: MediaReference) -> Arrival:
        return Arrival(self.cache.batch_folder(batch_id), reference.kind, self.config, self.cache.note)

    def _choose_delay_s(self, failure: TransferFailed, tries: int) -> float:
        """Exponential backoff with full jitter; what the server asked for is the least."""
        jitter_s = self._dice.uniform(0.0, min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** (tries - 1)))
        return min(failure.retry_after_s or 0.0, _RETRY_AFTER_MAX_S) + jitter_s


class BatchMedia:
    """A turn's hold of what its batch names. What was fetched outlives it."""

    def __init__(self, library: MediaLibrary, batch_id: str, owner: str) -> None:
        self._library = library
        self.config = library.config
        self._batch_id = batch_id
        self._owner = owner
        self._uploads: dict[str, MediaFile] = {}
        self._failures: dict[str, MediaFailure] = {}
        self._awaited: set[str] = set()
        """Keys of what was got and not held yet: nothing else takes its room before somebody could use it."""
        self._waiting: set[asyncio.Future[MediaFile]] = set()
        self._is_closed = False

    def find(self, reference: MediaReference) -> MediaFile | None:
        """What is here already; None: `get` it. The file may go at any time: see `holding`."""
        if self._library.is_here(reference.source):
            return self._find_upload(reference)
        return self._library.cache.find(self._batch_id, make_key(reference.kind, reference.source))

    async def get(self, reference: MediaReference) -> MediaFile:
        """Have it on disk: fetched once for all that ask at a time, and kept at least until it was held once.

        Raises:
            MediaRefused: it never can be had, or is not what is taken.
            MediaUnavailable: it was not to be had in all its tries.
            StoreUnavailable: the disk takes or gives nothing; ask again when it does.
            asyncio.CancelledError: the hold was closed, or the batch removed.

        """
        if self._is_closed:
            raise asyncio.CancelledError
        try:
            if self._library.is_here(reference.source):
                return await self._get_upload(reference)
            return await self._get_kept(reference)
        except MediaFailure as failure:
            raise type(failure)(failure.message, param=reference.param) from None

    @contextmanager
    def holding(self, references: Iterable[MediaReference]) -> Iterator[tuple[MediaFile, ...] | None]:
        """The files, none of which goes before the block ends; None, if one is not here: `get` it again."""
        asked = list(references)
        keys = [make_key(one.kind, one.source) for one in asked if not self._library.is_here(one.source)]
        cache = self._library.cache
        for key in keys:
            cache.pin(self._batch_id, key)
        try:
            files = [self.find(one) for one in asked]
            whole = tuple(file for file in files if file is not None)
            if len(whole) < len(files):
                yield None
                return
            yield whole
            self._release(keys)
        finally:
            for key in keys:
                cache.unpin(self._batch_id, key)

    async def close(self) -> None:
        """Stop what this hold waits for: `get` ends as if its task were cancelled. What others wait for goes on."""
        self._is_closed = True
        for wait in list(self._waiting):
            wait.cancel()
        self._release(list(self._awaited))
        # With this the waits let go of their fetches, and those that nobody else waits for end.
        await asyncio.sleep(0)
        await self._library.flights.wait_for_ends()

    def _release(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key in self._awaited:
                self._awaited.discard(key)
                self._library.cache.unpin(self._batch_id, key)

    async def _get_kept(self, reference: MediaReference) -> MediaFile:
        key = make_key(reference.kind, reference.source)
        known = self._failures.get(key)
        if known is not None:
            raise known
        library, cache = self._library, self._library.cache
        if key not in self._awaited:
            self._awaited.add(key)
            cache.pin(self._batch_id, key)
        try:
            found = cache.find(self._batch_id, key)
            if found is not None:
                return found
            begin = functools.partial(library.bring, self._batch_id, self._owner, reference, key)
            return await library.flights.join(self._batch_id, key, begin, self._waiting)
        except BaseException as error:
            self._release([key])
            if isinstance(error, MediaFailure) and len(self._failures) < _FAILURES_MAX:
                # Anew, since the old one keeps alive all that stood around it where it was raised.
                self._failures[key] = type(error)(error.message)
            raise

    async def _get_upload(self, reference: MediaReference) -> MediaFile:
        found = self._find_upload(reference)
        if found is None:
            found = await self._library.find_upload(reference.source, self._owner)
            self._uploads[reference.source] = found
        check_file(found, reference.kind, self.config, f"The file {reference.source}")
        return found

    def _find_upload(self, reference: MediaReference) -> MediaFile | None:
        found = self._uploads.get(reference.source)
        if found is not None and not found.path.exists():
            # It was deleted, which is said when it is asked for.
            del self._uploads[reference.source]
            return None
        return found


def _is_upload(source: str) -> bool:
    return _UPLOAD.fullmatch(source) is not None
