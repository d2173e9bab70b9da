"""The name of a cached file: all that is known of it stands there, so that nothing else has to be kept true."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from backfill.media.formats import FORMATS
from backfill.media_file import MediaFile, MediaKind

__all__ = ["CachedName", "make_key", "read_name"]

_NAME = re.compile(
    r"(?P<key>[0-9a-f]{64})-(?P<sha256>[0-9a-f]{64})-(?P<width>\d{0,9})x(?P<height>\d{0,9})-(?P<duration_ms>\d{0,12})"
    r"-[0-9a-f]{8}\.(?P<extension>[a-z0-9]+)"
)
_FORMATS = {known.extension: known for known, _ in FORMATS}
_FILE_NAMES = {MediaKind.PICTURE: "picture", MediaKind.AUDIO: "audio"}


class CachedName(NamedTuple):
    """What the name says."""

    key: str
    """Of what was asked for (`make_key`)."""
    sha256: str
    """Of what came."""
    width: int | None
    height: int | None
    duration_ms: int | None
    extension: str

    def render(self, nonce: str) -> str:
        """The name; with a nonce of eight digits no two files ever have the same, so none is removed for another."""
        width, height, length = ("" if fact is None else str(fact) for fact in self[2:5])
        return f"{self.key}-{self.sha256}-{width}x{height}-{length}-{nonce}.{self.extension}"

    def describe(self, path: Path, size_bytes: int) -> MediaFile:
        """The file that has this name."""
        found = _FORMATS[self.extension]
        return MediaFile(
            path=path,
            filename=f"{_FILE_NAMES[found.kind]}.{found.extension}",
            media_type=found.media_type,
            size_bytes=size_bytes,
            sha256=self.sha256,
            width=self.width,
            height=self.height,
            duration_ms=self.duration_ms,
        )


def read_name(name: str) -> CachedName | None:
    """What a name says, None if it is none of these."""
    found = _NAME.fullmatch(name)
    if found is None or found["extension"] not in _FORMATS:
        return None
    width, height, length = (int(found[fact]) if found[fact] else None for fact in ("width", "height", "duration_ms"))
    return CachedName(found["key"], found["sha256"], width, height, length, found["extension"])


def make_key(kind: MediaKind, source: str) -> str:
    """What a reference is known by: nothing of a link can be read in it."""
    digest = hashlib.sha256(f"{kind}\0".encode())
    digest.update(source.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
