"""What one file may hold, and what is said of one that holds more."""

from typing import NamedTuple

from backfill.errors import TooLarge
from backfill.purposes import MEDIA_PURPOSES

__all__ = ["FileLimits", "make_size_error"]


class FileLimits(NamedTuple):
    """What one file may hold."""

    lines: int
    size_bytes: int
    """Of a file of requests, and of a table."""
    media_size_bytes: int
    """Of a picture or a clip."""
    is_own: bool = False
    """Whether they are those of a key, and not the server's."""

    def size_of(self, purpose: str | None) -> int:
        """How many bytes a file of this purpose may have; None: of a purpose that is not known yet."""
        if purpose is None:
            return max(self.size_bytes, self.media_size_bytes)
        return self.media_size_bytes if purpose in MEDIA_PURPOSES else self.size_bytes


def make_size_error(limits: FileLimits, purpose: str | None = None, param: str = "file") -> TooLarge:
    """For a file that is larger than it may be."""
    size_bytes = limits.size_of(purpose)
    setting = "limits.file_size_bytes" if size_bytes == limits.size_bytes else "media.audio_size_bytes"
    whose = "the limit of your key" if limits.is_own else f"this server's limit (the setting {setting})"
    message = f"The file is larger than {size_bytes} bytes, which is {whose}."
    return TooLarge(message, param=param)
