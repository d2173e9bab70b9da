"""The bytes of a segment: one header, then records. docs/journal.md tells the format and why it is so. Pure.

    header  magic (8) | epoch (u64) | batch id (40, padded with NUL; of a slice with its number behind it, four digits)
            | how many fences (u32)
            | for each: epoch (u64), bytes of its segment that count (u64) | CRC-32 of these (u32)
    record  length of the rest (u32) | CRC-32 of the rest (u32) | line (u32) | outcome (6 bits) and, as the highest
            bits, whether it was reused and whether audio was heard (u8) | tries (u8) | status (u16)
            | prompt tokens (u32) | completion tokens (u32) | cached tokens (u32)
            | finished at, ms since the epoch (u64) | duration, ms (u32) | if audio was heard, how much, ms (u32) | body

A header of before there were fences has another magic, and its checksum right behind the batch id. Numbers are
little-endian. `body` is what the engine answered, byte for byte.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from backfill.batch import Outcome, Usage
from backfill.errors import StoreCorrupt

__all__ = [
    "AUDIO",
    "FIELDS",
    "FRAME",
    "HEADER_BYTES",
    "HEARD",
    "KINDS",
    "REUSED",
    "Header",
    "Record",
    "StoredRecord",
    "decode_header",
    "encode_header",
    "encode_record",
    "measure_header",
]

_MAGIC = b"BFJRNL02"
_MAGIC_UNFENCED = b"BFJRNL01"
_HEADER = struct.Struct("<8sQ40s")
_CRC = struct.Struct("<I")
FRAME = struct.Struct("<II")
FIELDS = struct.Struct("<IBBHIIIQI")
_COUNT = struct.Struct("<I")
_FENCE = struct.Struct("<QQ")
_FENCES_AT = _HEADER.size + _COUNT.size
HEADER_BYTES = _HEADER.size + _CRC.size
"""Of a header without fences; no other is as short."""
_MOST_U32 = 2**32 - 1
REUSED = 0x80
HEARD = 0x40
AUDIO = struct.Struct("<I")
KINDS = {
    outcome | reused | heard: (outcome, bool(reused), bool(heard))
    for outcome in Outcome
    for reused in (0, REUSED)
    for heard in (0, HEARD)
}
"""What the byte says: the outcome, whether it was reused, and whether audio was heard."""


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
    finished_at_ms: int
    body_offset: int
    body_length: int
    reused: bool
    duration_ms: int
    audio_ms: int = 0


class Header(NamedTuple):
    """What the beginning of a segment says."""

    epoch: int
    size_bytes: int
    """Of the header itself: the first record lies behind it."""
    fences: Mapping[int, int] | None
    """Epoch of an older segment -> how many of its bytes count; of one that is not named, none. None: all of all."""


def encode_header(batch_id: str, epoch: int, fences: Mapping[int, int] | None = None, slice_number: int = 0) -> bytes:
    """The first bytes of a segment of a batch, or of one slice of it."""
    owner = _name_owner(batch_id, slice_number)
    if fences is None:
        content = _HEADER.pack(_MAGIC_UNFENCED, epoch, owner)
    else:
        content = _HEADER.pack(_MAGIC, epoch, owner) + _COUNT.pack(len(fences))
        content += b"".join(_FENCE.pack(*fence) for fence in sorted(fences.items()))
    return content + _CRC.pack(zlib.crc32(content))


def measure_header(data: bytes) -> int:
    """How long the header is that begins `data`; more than there is if `data` does not tell."""
    if data[: len(_MAGIC)] == _MAGIC_UNFENCED:
        return HEADER_BYTES
    if len(data) < _FENCES_AT:
        return _FENCES_AT + _CRC.size
    return _FENCES_AT + int(_COUNT.unpack_from(data, _HEADER.size)[0]) * _FENCE.size + _CRC.size


def decode_header(data: bytes, batch_id: str, slice_number: int = 0) -> Header:
    """The header that is `data`; raises StoreCorrupt if it is none of this batch, or of this slice of it."""
    if len(data) >= HEADER_BYTES and len(data) == measure_header(data):
        content_bytes = len(data) - _CRC.size
        magic, epoch, owner = _HEADER.unpack_from(data)
        is_whole = _CRC.unpack_from(data, content_bytes)[0] == zlib.crc32(data[:content_bytes])
        if (
            is_whole
            and magic in (_MAGIC, _MAGIC_UNFENCED)
            and owner.rstrip(b"\0") == _name_owner(batch_id, slice_number)
        ):
            fences = None if magic == _MAGIC_UNFENCED else dict(_FENCE.iter_unpack(data[_FENCES_AT:content_bytes]))
            return Header(epoch, len(data), fences)
    message = f"A journal segment of batch {batch_id} has a damaged header."
    raise StoreCorrupt(message)


def _name_owner(batch_id: str, slice_number: int) -> bytes:
    # The id of a batch has 36 characters: a segment that comes under another slice's name is known by this.
    return (f"{batch_id}{slice_number:04d}" if slice_number else batch_id).encode()


def encode_record(record: Record) -> bytes:
    """The bytes of one record."""
    outcome = record.outcome | REUSED if record.reused else record.outcome
    prompt, completion, cached, audio_ms = record.usage
    if audio_ms:
        outcome |= HEARD
    finished, duration = record.finished_at_ms, record.duration_ms
    body = record.body
    try:
        fields = FIELDS.pack(
            record.line, outcome, record.tries, record.status, prompt, completion, cached, finished, duration
        )
    except struct.error:
        tokens = (min(count, _MOST_U32) for count in record.usage[:3])
        fields = FIELDS.pack(
            record.line,
            outcome,
            min(record.tries, 255),
            record.status,
            *tokens,
            finished,
            min(duration, _MOST_U32),
        )
    if audio_ms:
        fields += AUDIO.pack(min(audio_ms, _MOST_U32))
    checksum = zlib.crc32(body, zlib.crc32(fields))
    return b"".join((FRAME.pack(len(fields) + len(body), checksum), fields, body))
