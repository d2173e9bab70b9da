"""The bytes of a segment: one header, then records. docs/journal.md tells the format and why it is so. Pure.

    header  magic (8) | epoch (u64) | batch id (40, padded with NUL) | CRC-32 of these (u32)
    record  length of the rest (u32) | CRC-32 of the rest (u32) | line (u32) | outcome (7 bits) and, as the highest bit,
            whether it was reused (u8) | tries (u8) | status (u16)
            | prompt tokens (u32) | completion tokens (u32) | cached tokens (u32)
            | finished at, ms since the epoch (u64) | duration, ms (u32) | body

Numbers are little-endian. `body` is what the engine answered, byte for byte.
"""

import struct
import zlib

import msgspec

from backfill.batch import Outcome, Usage
from backfill.errors import StoreCorrupt

__all__ = ["HEADER_BYTES", "Record", "StoredRecord", "decode_header", "encode_header", "encode_record", "scan_records"]

_MAGIC = b"BFJRNL01"
_HEADER = struct.Struct("<8sQ40s")
_CRC = struct.Struct("<I")
_FRAME = struct.Struct("<II")
_FIELDS = struct.Struct("<IBBHIIIQI")
HEADER_BYTES = _HEADER.size + _CRC.size
_LONGEST_RECORD_BYTES = 1 << 30
_MOST_U32 = 2**32 - 1
_REUSED = 0x80
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}


class Record(msgspec.Struct, frozen=True):
    """The final outcome of one line."""

    line: int
    outcome: Outcome
    status: int
    """The HTTP status that the engine gave last; 0 if it gave none."""
    tries: int
    usage: Usage
    finished_at_ms: int
    duration_ms: int
    """How long the last try took."""
    body: bytes
    reused: bool = False
    """The outcome is that of an identical line; `usage` is then what it would have cost."""


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as it lies in a segment: all but its body, and where that is."""

    line: int
    outcome: Outcome
    status: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    body_offset: int
    body_length: int
    reused: bool


def encode_header(batch_id: str, epoch: int) -> bytes:
    """The first bytes of a segment."""
    content = _HEADER.pack(_MAGIC, epoch, batch_id.encode())
    return content + _CRC.pack(zlib.crc32(content))


def decode_header(data: bytes, batch_id: str) -> int:
    """The epoch of a segment; raises StoreCorrupt if it is no segment of this batch."""
    if len(data) == HEADER_BYTES and _CRC.unpack(data[_HEADER.size :])[0] == zlib.crc32(data[: _HEADER.size]):
        magic, epoch, owner = _HEADER.unpack(data[: _HEADER.size])
        if magic == _MAGIC and owner.rstrip(b"\0") == batch_id.encode():
            return int(epoch)
    message = f"A journal segment of batch {batch_id} has a damaged header."
    raise StoreCorrupt(message)


def encode_record(record: Record) -> bytes:
    """The bytes of one record."""
    outcome = record.outcome | _REUSED if record.reused else record.outcome
    numbers = (*record.usage, record.finished_at_ms, record.duration_ms)
    try:
        fields = _FIELDS.pack(record.line, outcome, record.tries, record.status, *numbers)
    except struct.error:
        tokens = (min(count, _MOST_U32) for count in record.usage)
        fields = _FIELDS.pack(
            record.line,
            outcome,
            min(record.tries, 255),
            record.status,
            *tokens,
            record.finished_at_ms,
            min(record.duration_ms, _MOST_U32),
        )
    checksum = zlib.crc32(record.body, zlib.crc32(fields))
    return b"".join((_FRAME.pack(len(fields) + len(record.body), checksum), fields, record.body))


def scan_records(data: bytes, start: int) -> list[StoredRecord]:
    """The whole, sound records in `data`, which lies at `start` in its segment; a record ends where its body ends.

    Stops without a word at the first record that is cut off or whose checksum fails: the caller sees how far it came.
    """
    records = []
    position, end = 0, len(data)
    view = memoryview(data)
    while position + _FRAME.size <= end:
        length, checksum = _FRAME.unpack_from(data, position)
        fields_at = position + _FRAME.size
        position = fields_at + length
        if length < _FIELDS.size or position > end or zlib.crc32(view[fields_at:position]) != checksum:
            break
        line, outcome, _, status, prompt, completion, cached, _, _ = _FIELDS.unpack_from(data, fields_at)
        kind = _OUTCOMES[outcome & ~_REUSED]
        body_at, body_length = start + fields_at + _FIELDS.size, length - _FIELDS.size
        reused = outcome >= _REUSED
        records.append(StoredRecord(line, kind, status, prompt, completion, cached, body_at, body_length, reused))
    return records


def needed_bytes(data: bytes) -> int:
    """How long the record that begins `data` is in all; 0 if `data` does not tell, or no record can be so long."""
    if len(data) < _FRAME.size:
        return 0
    length = int(_FRAME.unpack_from(data)[0])
    return _FRAME.size + length if length <= _LONGEST_RECORD_BYTES else 0
