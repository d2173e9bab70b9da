"""Reading one segment from the front, as far as it goes: the first record with a bad checksum ends the reading."""

import zlib
from collections.abc import Iterator
from itertools import chain

import structlog

from backfill.errors import StoreCorrupt
from backfill.journal.record import (
    AUDIO,
    FIELDS,
    FRAME,
    KINDS,
    Header,
    StoredRecord,
    decode_header,
    measure_header,
)
from backfill.store import Blobs

__all__ = ["SegmentReader", "scan_records"]

_PIECE_BYTES = 1 << 20
# A header with 250 fences; most have few.
_HEADER_PIECE_BYTES = 1 << 12
_LONGEST_HEADER_BYTES = 1 << 26
_LONGEST_RECORD_BYTES = 1 << 30
_log = structlog.get_logger(__name__)


class SegmentReader:
    """How far one segment of a batch's journal has been read. Blocks on disk: call it in a worker thread."""

    def __init__(self, blobs: Blobs, key: str, batch_id: str, slice_number: int = 0) -> None:
        self._blob = blobs.open_segment(key)
        self.key = key
        self._batch_id = batch_id
        self._slice_number = slice_number
        self._header: Header | None = None
        self._header_sought_in_bytes = 0
        self._position = 0
        self._size_read = 0
        self.limit_bytes: int | None = None
        """How many of its bytes count; None: all, and those to come."""

    @property
    def header(self) -> Header | None:
        """What it says of itself and of older ones; None while there is no whole header."""
        if self._header is None and (size := self._blob.size_bytes) > self._header_sought_in_bytes:
            self._header_sought_in_bytes = size
            self._header = self._read_header(size)
            self._position = self._header.size_bytes if self._header is not None else 0
        return self._header

    @property
    def end_bytes(self) -> int:
        """Where the last record ends that was given; the header's end if none was."""
        return self._position

    @property
    def is_overrun(self) -> bool:
        """Whether records were given that do not count, as is known now."""
        return self.limit_bytes is not None and self._position > self.limit_bytes

    def measure(self) -> int:
        """How many bytes count now."""
        size = self._blob.size_bytes
        return size if self.limit_bytes is None else min(size, self.limit_bytes)

    def read_on(self, *, durably: bool = False, end_bytes: int | None = None) -> Iterator[StoredRecord]:
        """The sound records behind the last one given, up to where the segment ends now; the rest as `read_pieces`.

        Read them to their end: what is read with them is not given again.
        """
        return chain.from_iterable(self.read_pieces(durably=durably, end_bytes=end_bytes))

    def read_pieces(self, *, durably: bool = False, end_bytes: int | None = None) -> Iterator[list[StoredRecord]]:
        """The same, many at once.

        `durably`: have the disk hold them first, so that no power cut can take back what the caller tells others.
        `end_bytes`: what `measure` said some time ago, so as to read no further.
        """
        size = self.measure() if end_bytes is None else end_bytes
        # A torn tail stays behind the position for ever; it is looked at again only when the segment has grown.
        if size == self._size_read:
            return
        if durably:
            self._blob.sync()
        if self.header is not None:
            yield from self._read_to(size)
        self._size_read = size

    @property
    def passed_over_bytes(self) -> int:
        """How much of what was looked at is no sound record: a torn tail, or one that is being written."""
        return max(0, self._size_read - self._position)

    def read_body(self, offset: int, length: int) -> bytes:
        """The body of a record."""
        return self._blob.read_on(offset, length)

    def close(self) -> None:
        """Give the descriptor back; safe to call twice."""
        self._blob.close()

    def _read_to(self, end: int) -> Iterator[list[StoredRecord]]:
        while self._position < end:
            start = self._position
            data = self._blob.read(start, min(_PIECE_BYTES, end - start))
            longer = _find_length(data)
            if longer > len(data):
                data = self._blob.read(start, min(longer, end - start))
            records = scan_records(data, start)
            if not records:
                return
            self._position = records[-1].body_offset + records[-1].body_length
            yield records

    def _read_header(self, size: int) -> Header | None:
        data = self._blob.read(0, min(size, _HEADER_PIECE_BYTES))
        length = measure_header(data)
        if length > size:
            return None
        if len(data) < length <= _LONGEST_HEADER_BYTES:
            data = self._blob.read(0, length)
        try:
            return decode_header(data[:length], self._batch_id, self._slice_number)
        except StoreCorrupt as error:
            _log.warning("journal segment ignored", segment=self.key, reason=error.message)
            return None


def scan_records(data: bytes, start: int) -> list[StoredRecord]:
    """The whole, sound records in `data`, which lies at `start` in its segment; a record ends where its body ends.

    Stops without a word at the first record that is cut off or whose checksum fails: the caller sees how far it came.
    """
    records = []
    position, end = 0, len(data)
    view = memoryview(data)
    while position + FRAME.size <= end:
        length, checksum = FRAME.unpack_from(data, position)
        fields_at = position + FRAME.size
        position = fields_at + length
        if length < FIELDS.size or position > end or zlib.crc32(view[fields_at:position]) != checksum:
            break
        line, outcome, _, status, prompt, completion, cached, finished, took = FIELDS.unpack_from(data, fields_at)
        kind, reused, heard = KINDS[outcome]
        body_at, body_length = start + fields_at + FIELDS.size, length - FIELDS.size
        audio_ms = 0
        if heard:
            (audio_ms,) = AUDIO.unpack_from(data, fields_at + FIELDS.size)
            body_at, body_length = body_at + AUDIO.size, body_length - AUDIO.size
        records.append(
            StoredRecord(
                line, kind, status, prompt, completion, cached, finished, body_at, body_length, reused, took, audio_ms
            )
        )
    return records


def _find_length(data: bytes) -> int:
    """How long the record that begins `data` is in all; 0 if `data` does not tell, or no record can be so long."""
    if len(data) < FRAME.size:
        return 0
    length = int(FRAME.unpack_from(data)[0])
    return FRAME.size + length if length <= _LONGEST_RECORD_BYTES else 0
