"""A picture or a clip that a request names, once it lies on this machine's disk."""

from enum import StrEnum
from pathlib import Path

import msgspec

__all__ = ["MediaFile", "MediaKind", "MediaReference"]


class MediaKind(StrEnum):
    """What a request wants of what it names."""

    PICTURE = "picture"
    AUDIO = "audio"


class MediaReference(msgspec.Struct, frozen=True):
    """What a request names, and where in it."""

    kind: MediaKind
    source: str
    """A URL (https:, http:, data:), or the id of an uploaded file."""
    param: str
    """The member that holds it, as an error names it: `body.file`, `body.messages[0].content[1].image_url.url`."""


class MediaFile(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on disk that were fetched, or uploaded, and found to be what they should."""

    path: Path
    filename: str
    """With the extension that fits what it is: engines guess from it."""
    media_type: str
    """As found in the bytes, not as somebody called it."""
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    """Of pictures, in pixels."""
    duration_ms: int | None = None
    """Of clips, where it could be read without decoding them."""
