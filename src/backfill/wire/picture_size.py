"""Width and height of a picture, from its first bytes alone: nothing is decoded, and no byte is believed. Pure.

Only forms that say it where it can be read at once; `media` decodes pictures, in threads.
"""

import binascii
from struct import Struct, error

__all__ = ["PICTURE_HEAD_BYTES", "read_data_url_size", "read_picture_size"]

PICTURE_HEAD_BYTES = 1 << 17
"""So much of a JPEG may be descriptions and previews before it says how large it is."""
_FIRST_LOOK_BYTES = 3072
_PNG, _GIF, _JPEG = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a"), b"\xff\xd8"
_two_u32_big = Struct(">II").unpack_from
_two_u16 = Struct("<HH").unpack_from
_two_u16_big = Struct(">HH").unpack_from
_two_i32 = Struct("<ii").unpack_from
# Of the markers that begin a frame: C0 to CF, less those of tables (C4), an extension (C8) and arithmetic coding (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_SEGMENTS_MAX = 1000
_LONGEST_URL_HEADER = 512


def read_picture_size(head: bytes) -> tuple[int, int] | None:
    """What begins with these bytes (PICTURE_HEAD_BYTES are enough), in pixels; None: it does not say."""
    try:
        return _read_size(head)
    except (IndexError, error):
        return None  # cut off


def read_data_url_size(url: str) -> tuple[int, int] | None:
    """The same of a picture in a data: URL in base64."""
    start = url.find(",", 0, _LONGEST_URL_HEADER) + 1
    head = _decode(url, start, _FIRST_LOOK_BYTES)
    size = read_picture_size(head)
    if size is None and head.startswith(_JPEG):
        size = read_picture_size(_decode(url, start, PICTURE_HEAD_BYTES))
    return size


def _decode(url: str, start: int, size_bytes: int) -> bytes:
    piece = url[start : start + size_bytes // 3 * 4]
    try:
        return binascii.a2b_base64(piece[: len(piece) // 4 * 4])
    except ValueError:
        return b""


def _read_size(head: bytes) -> tuple[int, int] | None:
    width = height = 0
    if head.startswith(_JPEG):
        return _read_jpeg(head)
    if head.startswith(_PNG):
        width, height = _two_u32_big(head, 16)
    elif head.startswith(_GIF):
        width, height = _two_u16(head, 6)
    elif head.startswith(b"BM"):
        is_old = head[14:18] == b"\x0c\0\0\0"
        width, height = _two_u16(head, 18) if is_old else map(abs, _two_i32(head, 18))
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        width, height = _read_webp(head)
    return (width, height) if width and height else None


def _read_webp(head: bytes) -> tuple[int, int]:
    form = head[12:16]
    if form == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return (width, height) if len(head) >= 30 else (0, 0)
    if form == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)) if len(head) >= 25 else (0, 0)
    width, height = _two_u16(head, 26)
    return (width & 0x3FFF, height & 0x3FFF) if form == b"VP8 " else (0, 0)


def _read_jpeg(head: bytes) -> tuple[int, int] | None:
    place = 2
    for _ in range(_SEGMENTS_MAX):
        if head[place] != 0xFF:
            return None
        while head[place] == 0xFF:  # any number of them may stand before a marker
            place += 1
        marker = head[place]
        place += 1
        if marker in _FRAMES:
            height, width = _two_u16_big(head, place + 3)
            return (width, height) if width and height else None
        if marker not in _LONE_MARKERS:
            place += int.from_bytes(head[place : place + 2], "big")
    return None
