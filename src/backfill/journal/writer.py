"""Writing a journal: append without waiting, commit in groups.

What is appended in one turn of the event loop is written to the file at its end, so it survives the process; the disk
is made to hold it (`fdatasync`, in a worker thread) after 0.2 s or for 2,048 records, so it survives the machine too.
A line is done from then on.
"""

import asyncio
from collections.abc import Callable, Mapping

from backfill.errors import StoreUnavailable
from backfill.journal.fold import Fold
from backfill.journal.record import Record, encode_header, encode_record
from backfill.store import Blobs, SegmentFile, segment_key, sync_each

__all__ = ["SegmentWriter", "SyncGroup", "begin_segment", "fence"]

# The disk may lag so far behind the engine before feeding has to wait for it: the bytes of all turns together, since
# they lie in one process's memory.
UNSYNCED_RECORDS_LIMIT = 8192
UNSYNCED_BYTES_LIMIT = 64 << 20


def begin_segment(
    blobs: Blobs,
    batch_id: str,
    epoch: int,
    fences: Mapping[int, int] | None = None,
    *,
    slice_number: int = 0,
    durably: bool = False,
) -> SegmentFile:
    """The file of a new segment, with its header; raises StoreUnavailable if it exists. Blocks on disk.

    `fences`: how many bytes of each older segment count, as `Fold.fences` gives them; None: all, as nobody writes any
    more to one. `slice_number`: of which slice of a batch that was cut. `durably`: on disk when this returns.
    """
    if max(fences or (), default=0) >= epoch:
        # The turn was lost while it was opened, or the row is an older copy.
        raise StoreUnavailable(f"The journal of batch {batch_id} has a segment of a later turn.")
    header = encode_header(batch_id, epoch, fences, slice_number)
    file = blobs.append_to(segment_key(batch_id, epoch, slice_number), header)
    if durably:
        try:
            file.sync()
        except StoreUnavailable:
            file.discard()
            raise
    return file


def fence(blobs: Blobs, batch_id: str, lines: int, epoch: int, slice_number: int = 0) -> None:
    """Begin a segment in which nothing will stand: what others write from now on does not count.

    As `begin_segment`: it blocks on disk, where it is when this returns.
    """
    fold = Fold(blobs, batch_id, lines, slice_number=slice_number)
    try:
        fold.refresh()
        begin_segment(blobs, batch_id, epoch, fold.fences, slice_number=slice_number, durably=True).close()
    finally:
        fold.close()


class SyncGroup:
    """Syncs the segments of several turns in one pass of a worker thread, and bounds what all of them keep in memory.

    Small turns end nearly together. Where the disk is told of all files first, the first sync of a pass makes it hold
    nearly all that the others ask for.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[SegmentFile, asyncio.Future[None]]] = []
        self._passing: asyncio.Task[None] | None = None
        self._unsynced_bytes = 0
        self._groups: set[asyncio.Event] = set()
        self._room = asyncio.Condition()
        self.is_behind = False
        """What all turns have to write is so much that each of them should wait."""

    def note_unsynced(self, size_bytes: int) -> None:
        """Count bytes that a turn has to write, or, below 0, that are written or given up."""
        self._unsynced_bytes += size_bytes
        self.is_behind = self._unsynced_bytes > UNSYNCED_BYTES_LIMIT
        if self.is_behind:
            # Nobody may add to a group that waits for more.
            for group_full in self._groups:
                group_full.set()

    async def wait_for_group(self, group_full: asyncio.Event, timeout_s: float) -> None:
        """Return once that is set, which happens here too if there is too much to write, or after so long."""
        if self.is_behind:
            return
        self._groups.add(group_full)
        try:
            async with asyncio.timeout(timeout_s):
                await group_full.wait()
        except TimeoutError:
            pass
        finally:
            self._groups.discard(group_full)

    async def wait_for_room(self, has_room: Callable[[], bool]) -> None:
        """Return once that holds; asked for after each `tell_room`."""
        async with self._room:
            await self._room.wait_for(has_room)

    async def tell_room(self) -> None:
        """There may be room for more."""
        async with self._room:
            self._room.notify_all()

    async def sync(self, file: SegmentFile) -> None:
        """Return once the disk holds what was written to the file before the call; raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        synced: asyncio.Future[None] = loop.create_future()
        self._waiting.append((file, synced))
        if self._passing is None or self._passing.done():
            self._passing = loop.create_task(self._pass(), name="sync segments")
        await synced

    async def _pass(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            failures = await asyncio.to_thread(_sync_together, [file for file, _ in waiting])
            for (_, synced), failure in zip(waiting, failures, strict=True):
                if synced.done():
                    continue
                if failure is None:
                    synced.set_result(None)
                else:
                    synced.set_exception(failure)


def _sync_together(files: list[SegmentFile]) -> list[StoreUnavailable | None]:
    """Why each file could not be synced, None where it was. Blocks on disk."""
    if len(files) > 1:
        for file in files:
            file.begin_sync()
    return sync_each(_sync, files)


def _sync(file: SegmentFile) -> StoreUnavailable | None:
    try:
        file.sync()
    except StoreUnavailable as error:
        return error
    return None


class SegmentWriter:
    """One holder's segment of a batch's journal. After a failed write nothing more can be appended to it."""

    def __init__(
        self, file: SegmentFile, syncs: SyncGroup | None = None, *, stays: bool = False, is_one_of_many: bool = False
    ) -> None:
        """`file` has its header; with `stays` it is kept though no record comes to stand in it.

        `is_one_of_many`: of a batch whose readers have many segments to look at: they are told when it is over.
        """
        self._file = file
        self._header_bytes = file.size_bytes
        self._stays = stays
        self._is_one_of_many = is_one_of_many
        self._group_records = file.group_records
        self._syncs = syncs or SyncGroup()
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._unsynced_records = 0
        self._unsynced_bytes = 0
        self._group_full = asyncio.Event()
        self._synced = asyncio.Condition()
        self.synced_records = 0
        """Records that the disk holds."""
        self._failure: StoreUnavailable | None = None
        self._is_behind = False
        self._syncing: asyncio.Task[None] | None = None

    @classmethod
    async def create(cls, blobs: Blobs, batch_id: str, epoch: int) -> "SegmentWriter":
        """Begin the segment of this epoch; raises StoreUnavailable if it exists."""
        return cls(await asyncio.to_thread(begin_segment, blobs, batch_id, epoch))

    @property
    def is_behind(self) -> bool:
        """The disk lags so far behind, here or with all turns together, that appending should wait."""
        return self._is_behind or self._syncs.is_behind

    def append(self, record: Record) -> None:
        """Take a record; raises StoreUnavailable once a write has failed."""
        if self._failure is not None:
            raise self._failure
        if not self._pending:
            self._loop.call_soon(self._write_pending)
        self._pending.append(encode_record(record))

    async def wait_for_room(self) -> None:
        """Return once the disk has caught up; raises StoreUnavailable if it fails."""
        await self._syncs.wait_for_room(lambda: self._failure is not None or not self.is_behind)
        if self._failure is not None:
            raise self._failure

    async def sync(self) -> None:
        """Return once the disk holds everything appended before the call; raises StoreUnavailable if it does not."""
        self._write_pending()
        self._group_full.set()
        async with self._synced:
            await self._synced.wait_for(lambda: self._failure is not None or self._unsynced_records == 0)
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Sync what can be synced and give the descriptor back; never raises."""
        self._write_pending()
        self._group_full.set()
        if self._syncing is not None:
            await self._syncing
        if self._unsynced_records:
            # They are given up, and their memory with them.
            self._note_unsynced(-self._unsynced_records, -self._unsynced_bytes)
            await self._syncs.tell_room()
        # Readers keep each segment open: while a disk is full, turn after turn would leave them another empty one.
        if self._file.size_bytes <= self._header_bytes and not self._stays:
            await asyncio.to_thread(self._file.discard)
        elif self._is_one_of_many and self._failure is None:
            await asyncio.to_thread(self._file.end)
        self._file.close()

    def _write_pending(self) -> None:
        if not self._pending or self._failure is not None:
            return
        records, self._pending = self._pending, []
        data = b"".join(records)
        try:
            # A write to the page cache: a few microseconds, less than the way to a thread.
            self._file.write(data)
        except StoreUnavailable as error:
            self._failure = error
            self._group_full.set()
        self._note_unsynced(len(records), len(data))
        if self._unsynced_records >= self._group_records:
            self._group_full.set()
        if self._syncing is None or self._syncing.done():
            self._syncing = self._loop.create_task(self._commit_groups())

    async def _commit_groups(self) -> None:
        """Sync group after group until nothing is left to sync."""
        while self._unsynced_records and self._failure is None:
            await self._wait_for_group()
            records, size_bytes = self._unsynced_records, self._unsynced_bytes
            try:
                await self._syncs.sync(self._file)
            except StoreUnavailable as error:
                self._failure = error
            else:
                self.synced_records += records
                self._note_unsynced(-records, -size_bytes)
            await self._tell_synced()
        if self._failure is not None:
            await self._tell_synced()

    async def _tell_synced(self) -> None:
        async with self._synced:
            self._synced.notify_all()
        await self._syncs.tell_room()

    def _note_unsynced(self, records: int, size_bytes: int) -> None:
        self._unsynced_records += records
        self._unsynced_bytes += size_bytes
        self._is_behind = self._unsynced_records > UNSYNCED_RECORDS_LIMIT
        self._syncs.note_unsynced(size_bytes)

    async def _wait_for_group(self) -> None:
        await self._syncs.wait_for_group(self._group_full, self._file.group_wait_s)
        self._group_full.clear()
