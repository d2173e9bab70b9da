"""What a file is, seen in its first bytes: what anybody called it does not count."""

from collections.abc import Callable
from typing import NamedTuple

from backfill.media_file import MediaKind

__all__ = ["FORMATS", "HEAD_BYTES", "TAKEN", "MediaFormat", "find_format", "name_format"]

HEAD_BYTES = 4096
"""So much of a file's beginning is enough to tell."""
TAKEN = {
    MediaKind.PICTURE: "png, jpeg, gif, webp, bmp, tiff, avif",
    MediaKind.AUDIO: "wav, mp3, flac, ogg (opus too), m4a, mp4, mov, webm, mkv, mpeg, aac, aiff",
}
"""The forms of each kind, for messages."""


class MediaFormat(NamedTuple):
    """One form of pictures or clips."""

    kind: MediaKind
    media_type: str
    extension: str
    """Without a dot; no two formats share one."""


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _is_riff(form: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == form


def _has_brand(*brands: bytes) -> Callable[[bytes], bool]:
    def matches(head: bytes) -> bool:
        size = int.from_bytes(head[:4], "big")
        if head[4:8] != b"ftyp" or not 8 <= size <= HEAD_BYTES:
            return False
        # The main brand, a version, and the others that it goes by.
        found = {head[at : at + 4] for at in range(8, min(size, len(head)), 4) if at != 12}
        return not found.isdisjoint(brands)

    return matches


def _is_film(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and 8 <= int.from_bytes(head[:4], "big") <= HEAD_BYTES


def _is_matroska(doc_type: bytes) -> Callable[[bytes], bool]:
    # The element DocType (0x4282), its length, its text.
    element = b"\x42\x82" + bytes([0x80 | len(doc_type)]) + doc_type
    return lambda head: head.startswith(b"\x1a\x45\xdf\xa3") and element in head[:128]


def _is_mpeg_audio(head: bytes) -> bool:
    """A frame of MPEG audio: eleven bits set, then what is no layer, rate or frequency that there is not."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    return version != 1 and layer != 0 and head[2] >> 4 != 0xF and head[2] >> 2 & 3 != 3


def _is_adts(head: bytes) -> bool:
    return len(head) >= 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 0xF <= 12


def _is_markup(*tags: bytes) -> Callable[[bytes], bool]:
    def matches(head: bytes) -> bool:
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        return text.startswith(b"<") and any(tag in text for tag in tags)

    return matches


_PICTURE, _AUDIO = MediaKind.PICTURE, MediaKind.AUDIO
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"msf1")
FORMATS: tuple[tuple[MediaFormat, Callable[[bytes], bool]], ...] = (
    (MediaFormat(_PICTURE, "image/png", "png"), _starts(b"\x89PNG\r\n\x1a\n")),
    (MediaFormat(_PICTURE, "image/jpeg", "jpg"), _starts(b"\xff\xd8\xff")),
    (MediaFormat(_PICTURE, "image/gif", "gif"), _starts(b"GIF87a", b"GIF89a")),
    (MediaFormat(_PICTURE, "image/webp", "webp"), _is_riff(b"WEBP")),
    (MediaFormat(_PICTURE, "image/bmp", "bmp"), lambda head: head.startswith(b"BM") and head[6:10] == bytes(4)),
    (MediaFormat(_PICTURE, "image/tiff", "tiff"), _starts(b"II*\0", b"MM\0*")),
    (MediaFormat(_PICTURE, "image/avif", "avif"), _has_brand(b"avif", b"avis")),
    (MediaFormat(_PICTURE, "image/heic", "heic"), _has_brand(*_HEIC)),
    (MediaFormat(_AUDIO, "audio/wav", "wav"), _is_riff(b"WAVE")),
    (MediaFormat(_AUDIO, "audio/flac", "flac"), _starts(b"fLaC")),
    # Whichever codec is in it: what servers take has this name for all.
    (MediaFormat(_AUDIO, "audio/ogg", "ogg"), _starts(b"OggS")),
    (MediaFormat(_AUDIO, "audio/mp4", "m4a"), _has_brand(b"M4A ", b"M4B ", b"M4P ")),
    (MediaFormat(_AUDIO, "video/quicktime", "mov"), _has_brand(b"qt  ")),
    # Whatever else is of this family; after the brands that it has names for.
    (MediaFormat(_AUDIO, "video/mp4", "mp4"), _is_film),
    (MediaFormat(_AUDIO, "video/webm", "webm"), _is_matroska(b"webm")),
    (MediaFormat(_AUDIO, "video/x-matroska", "mkv"), _is_matroska(b"matroska")),
    (MediaFormat(_AUDIO, "video/mpeg", "mpeg"), _starts(b"\0\0\1\xba")),
    (MediaFormat(_AUDIO, "audio/aiff", "aiff"), lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")),
    (MediaFormat(_AUDIO, "audio/aac", "aac"), _is_adts),
    # With its tags in front, or without.
    (MediaFormat(_AUDIO, "audio/mpeg", "mp3"), lambda head: head.startswith(b"ID3") or _is_mpeg_audio(head)),
)
"""What is taken, and how it is known; the first that fits."""

_OTHERS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    # Pages may have drawings in them, but not the other way round.
    ("text/html", _is_markup(b"<html", b"<!doctype html")),
    ("image/svg+xml", _is_markup(b"<svg")),
    ("image/jxl", _starts(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("image/jp2", _starts(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    ("image/x-icon", _starts(b"\0\0\1\0")),
    ("image/vnd.adobe.photoshop", _starts(b"8BPS")),
    ("application/pdf", _starts(b"%PDF-")),
    ("application/zip", _starts(b"PK\3\4")),
    ("application/gzip", _starts(b"\x1f\x8b")),
)
"""What is not taken and may well be sent, so that its sender is told what it is."""


def find_format(head: bytes) -> MediaFormat | None:
    """What begins with these bytes (`HEAD_BYTES` of them, or all); None: nothing that is taken."""
    return next((known for known, matches in FORMATS if matches(head)), None)


def name_format(head: bytes) -> str:
    """What begins with these bytes, to go after "is" in a message."""
    found = find_format(head)
    if found is not None:
        return found.media_type
    return next((name for name, matches in _OTHERS if matches(head)), "of no known form")
