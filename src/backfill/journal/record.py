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
from collections.abc import Iterator
from typing import NamedTuple

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


class Record(NamedTuple):
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


class StoredRecord(NamedTuple):
    """A record as it lies in a segment: all but its body, and where that is."""

    line: int
    outcome: Outcome
    status: int
    usage: Usage
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
    prompt_tokens, completion_tokens, cached_tokens = record.usage
    fields = _FIELDS.pack(
        record.line,
        record.outcome | _REUSED if record.reused else record.outcome,
        min(record.tries, 255),
        record.status,
        min(prompt_tokens, _MOST_U32),
        min(completion_tokens, _MOST_U32),
        min(cached_tokens, _MOST_U32),
        record.finished_at_ms,
        min(record.duration_ms, _MOST_U32),
    )
    checksum = zlib.crc32(record.body, zlib.crc32(fields))
    return b"".join((_FRAME.pack(len(fields) + len(record.body), checksum), fields, record.body))


def scan_records(data: bytes, start: int) -> Iterator[tuple[StoredRecord, int]]:
    """The whole, sound records in `data`, each with the position behind it.

    `start` is where `data` lies in its segment. Stops without a word at the first record that is cut off or whose
    checksum fails: the caller sees how far it came.
    """
    position, end = 0, len(data)
    while position + _FRAME.size <= end:
        length, checksum = _FRAME.unpack_from(data, position)
        fields_at = position + _FRAME.size
        behind = fields_at + length
        if length < _FIELDS.size or behind > end or zlib.crc32(data[fields_at:behind]) != checksum:
            return
        line, outcome, _, status, prompt, completion, cached, _, _ = _FIELDS.unpack_from(data, fields_at)
        body_at = fields_at + _FIELDS.size
        usage = Usage(prompt, completion, cached)
        kind = _OUTCOMES[outcome & ~_REUSED]
        reused = outcome >= _REUSED
        yield StoredRecord(line, kind, status, usage, start + body_at, behind - body_at, reused), behind
        position = behind


def needed_bytes(data: bytes) -> int:
    """How long the record that begins `data` is in all; 0 if `data` does not tell, or no record can be so long."""
    if len(data) < _FRAME.size:
        return 0
    length = int(_FRAME.unpack_from(data)[0])
    return _FRAME.size + length if length <= _LONGEST_RECORD_BYTES else 0
