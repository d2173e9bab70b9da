"""Whether a file on disk is what a request wants, as far as its headers tell: its form, its size, its length."""

from pathlib import Path
from typing import NamedTuple

from backfill.config import MediaConfig
from backfill.media.clip_length import read_length_ms
from backfill.media.failures import MediaRefused
from backfill.media.formats import HEAD_BYTES, TAKEN, MediaFormat, find_format, name_format
from backfill.media.pictures import READABLE, check_picture
from backfill.media_file import MediaFile, MediaKind

__all__ = ["MediaFacts", "check_file", "check_format", "check_known", "check_size", "find_limit", "inspect_media"]

_NAMES = {MediaKind.PICTURE: "picture", MediaKind.AUDIO: "clip"}

_MEASURED = frozenset({"wav", "mp3", "flac", "ogg", "m4a", "mp4", "mov", "aiff"})
"""Of these the headers say how long a clip is; others would be misread."""


class MediaFacts(NamedTuple):
    """What a file is."""

    format: MediaFormat
    width: int | None = None
    height: int | None = None
    """Of pictures, in pixels."""
    duration_ms: int | None = None
    """Of clips, where their headers say."""


def find_limit(kind: MediaKind, config: MediaConfig) -> tuple[int, str]:
    """How many bytes are taken at most, and which setting says so."""
    if kind is MediaKind.PICTURE:
        return config.picture_size_bytes, "media.picture_size_bytes"
    return config.audio_size_bytes, "media.audio_size_bytes"


def check_size(size_bytes: int, kind: MediaKind, config: MediaConfig, subject: str) -> None:
    """Raise MediaRefused if it is too large."""
    limit_bytes, setting = find_limit(kind, config)
    if size_bytes > limit_bytes:
        raise MediaRefused(
            f"{subject} holds more than {limit_bytes:,} bytes, the most that is taken of a {_NAMES[kind]} ({setting})."
        )


def check_format(head: bytes, kind: MediaKind, subject: str) -> MediaFormat:
    """What begins with `head`; raises MediaRefused if that is not what is wanted."""
    found = find_format(head)
    if found is not None and found.kind is kind:
        return found
    if not head:
        raise MediaRefused(f"{subject} holds nothing.")
    raise MediaRefused(f"{subject} is {name_format(head)}, and no {_NAMES[kind]} that is taken: {TAKEN[kind]}.")


def check_known(head: bytes, subject: str) -> MediaFormat:
    """The same where it may be of either kind: what is wanted of it is not known yet."""
    found = find_format(head)
    if found is None:
        taken = " and ".join(f"{_NAMES[kind]}s ({TAKEN[kind]})" for kind in MediaKind)
        raise MediaRefused(f"{subject} is {name_format(head)}; taken are {taken}.")
    return found


def check_file(file: MediaFile, kind: MediaKind, config: MediaConfig, subject: str) -> None:
    """The same of a file that was inspected before, for another use."""
    is_picture = file.media_type.startswith("image/")
    if is_picture != (kind is MediaKind.PICTURE):
        raise MediaRefused(f"{subject} is {file.media_type}, and no {_NAMES[kind]} that is taken: {TAKEN[kind]}.")
    check_size(file.size_bytes, kind, config, subject)
    _check_length(file.duration_ms, config, subject)


def inspect_media(path: Path, kind: MediaKind, config: MediaConfig, subject: str) -> MediaFacts:
    """Look at a whole file. Blocks on disk; raises MediaRefused and OSError.

    `subject` names it at the beginning of a sentence.
    """
    check_size(path.stat().st_size, kind, config, subject)
    with path.open("rb") as file:
        found = check_format(file.read(HEAD_BYTES), kind, subject)
    if kind is MediaKind.PICTURE:
        if found.media_type not in READABLE:
            return MediaFacts(found)
        picture = check_picture(path, config, decode=False, subject=subject)
        return MediaFacts(found, picture.width, picture.height)
    length_ms = read_length_ms(path) if found.extension in _MEASURED else None
    _check_length(length_ms, config, subject)
    return MediaFacts(found, duration_ms=length_ms)


def _check_length(length_ms: int | None, config: MediaConfig, subject: str) -> None:
    if length_ms is not None and length_ms > config.audio_length_s * 1000:
        raise MediaRefused(
            f"{subject} is {length_ms / 1000:,.0f} s long; at most {config.audio_length_s:,.0f} s are taken "
            "(media.audio_length_s)."
        )
