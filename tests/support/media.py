"""Pictures and clips of tests, and libraries that may fetch from the server of a test."""

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

from backfill.config import MediaConfig
from backfill.media_file import MediaKind, MediaReference

__all__ = ["clip", "configure", "data_url", "list_files", "picture", "png"]

ALLOWED = ("127.0.0.1/32",)
"""Where a test's server listens: to the rest of the machine nothing may lead."""


def picture(source: str) -> MediaReference:
    """A reference to a picture."""
    return MediaReference(MediaKind.PICTURE, source, "body.messages[0].content[0].image_url.url")


def clip(source: str) -> MediaReference:
    """A reference to a clip."""
    return MediaReference(MediaKind.AUDIO, source, "body.file")


def configure(**settings: Any) -> MediaConfig:
    """Settings with which a test's server can be reached."""
    return MediaConfig(**({"allow": ALLOWED, "allow_http": True} | settings))


def png(width: int = 2, height: int = 3, padding: int = 0) -> bytes:
    """A grey picture; `padding` bytes of it are a comment."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress((b"\0" + bytes(width)) * height)
    comment = chunk(b"tEXt", b"Comment\0" + b"x" * padding) if padding else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + comment + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """The bytes as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def list_files(folder: Path) -> list[Path]:
    """All that lies below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
