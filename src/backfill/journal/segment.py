"""Reading one segment from the front, as far as it has been written."""

from collections.abc import Iterator

import structlog

from backfill.errors import StoreCorrupt
from backfill.journal.record import HEADER_BYTES, StoredRecord, decode_header, needed_bytes, scan_records
from backfill.store import LocalBlobs

__all__ = ["SegmentReader"]

_PIECE_BYTES = 1 << 20
_log = structlog.get_logger(__name__)


class SegmentReader:
    """How far one segment of a batch's journal has been read. Blocks on disk: call it in a worker thread."""

    def __init__(self, blobs: LocalBlobs, key: str, batch_id: str) -> None:
        self._blob = blobs.open(key)
        self._key = key
        self._batch_id = batch_id
        self._position = 0
        self._size_read = 0

    def read_on(self, *, durably: bool = False) -> Iterator[StoredRecord]:
        """The sound records behind the last one given, up to where the segment ends now.

        `durably`: have the disk hold them first, so that no power cut can take back what the caller tells others.
        """
        size = self._blob.size_bytes
        # A torn tail stays behind the position for ever; it is looked at again only when the segment has grown.
        if size == self._size_read:
            return
        if durably:
            self._blob.sync()
        if self._position or self._pass_header(size):
            yield from self._read_to(size)
        self._size_read = size

    def read_body(self, offset: int, length: int) -> bytes:
        """The body of a record."""
        return self._blob.read_on(offset, length)

    def close(self) -> None:
        """Give the descriptor back; safe to call twice."""
        self._blob.close()

    def _read_to(self, end: int) -> Iterator[StoredRecord]:
        while self._position < end:
            start = self._position
            data = self._blob.read(start, min(_PIECE_BYTES, end - start))
            longer = needed_bytes(data)
            if longer > len(data):
                data = self._blob.read(start, min(longer, end - start))
            records = scan_records(data, start)
            if not records:
                return
            for record in records:
                self._position = record.body_offset + record.body_length
                yield record

    def _pass_header(self, size: int) -> bool:
        if size < HEADER_BYTES:
            return False
        try:
            decode_header(self._blob.read(0, HEADER_BYTES), self._batch_id)
        except StoreCorrupt as error:
            _log.warning("journal segment ignored", segment=self._key, reason=error.message)
            return False
        self._position = HEADER_BYTES
        return True
