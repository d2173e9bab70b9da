"""How long a clip is, as its headers say: nothing is decoded, and no clip takes more than a little time."""

import io
import math
from pathlib import Path

__all__ = ["read_length_ms"]

# A clip made to be slow to read is one whose length is not known. Four hours of Ogg are read page by page, three times
# two a second; and all of it, so as much as a clip may have, and again.
_READS_MAX = 100_000
_READ_BYTES_MAX = 16 * 1024 * 1024
_READ_BYTES_IN_ALL = 2 * 1024 * 1024 * 1024
_DECODED_LATER = "the length of this clip is known when it is decoded"


class _Exhausted(Exception):
    """The clip asks for more than its length is worth."""


class _BoundedFile(io.FileIO):
    """A file that is read so often, and not oftener."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._reads = 0
        self._read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        asked = size if size is not None and size >= 0 else _READ_BYTES_MAX
        if self._reads > _READS_MAX or asked > _READ_BYTES_MAX:
            raise _Exhausted(_DECODED_LATER)
        data = super().read(size) or b""
        self._read_bytes += len(data)
        if self._read_bytes > _READ_BYTES_IN_ALL:
            raise _Exhausted(_DECODED_LATER)
        return data


def read_length_ms(path: Path) -> int | None:
    """Milliseconds, None if the headers do not say, or are odd. Blocks on disk; raises OSError."""
    from tinytag import TinyTag  # noqa: PLC0415 - only where there is a clip

    with _BoundedFile(path) as file:
        try:
            read = TinyTag.get(file_obj=file, tags=False, duration=True)
        except Exception:  # noqa: BLE001 - bytes of a stranger; whatever they do to the parser, the length is not known
            return None
    seconds = read.duration or 0.0
    if read.bitrate and (read.mime_type or "").startswith("audio/wav"):
        # What is written to a pipe does not know its length, and says that it is as long as can be said.
        seconds = min(seconds, read.filesize * 8 / (read.bitrate * 1000))
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    return round(seconds * 1000)
