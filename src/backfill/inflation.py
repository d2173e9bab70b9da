"""Bytes that come compressed, as gzip or Zstandard: known by how they begin, inflated in pieces of bounded size."""

import hashlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from backfill.errors import InvalidInput

__all__ = ["ENDINGS", "Inflater", "Packing", "Unpacker", "name_unpacked", "open_unpacked"]

ENDINGS = (".gz", ".gzip", ".zst", ".zstd")
"""How the names of compressed files end."""
_PIECE_BYTES = 1 << 18
_READ_BYTES = 1 << 16
_GZIP_WINDOW = zlib.MAX_WBITS | 16
# Of a frame that looks back further as much memory would be needed: 8 MiB is what `zstd -19` asks for at most, and what
# RFC 9659 allows in HTTP.
_ZSTD_WINDOW_LOG = 23
_LONGEST_MARK = 4


class Packing(Enum):
    """How bytes are compressed: what it is called, and how it begins."""

    GZIP = "gzip", b"\x1f\x8b"
    ZSTD = "zstd", b"\x28\xb5\x2f\xfd"

    @property
    def label(self) -> str:
        """As messages call it."""
        return self.value[0]

    @classmethod
    def recognise(cls, beginning: bytes) -> "Packing | None":
        """What begins so; no text does."""
        return next((packing for packing in cls if beginning.startswith(packing.value[1])), None)


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecoder:
    """zlib's, with the manners of the others."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self.needs_input = not self._decoder.unconsumed_tail and len(piece) < max_length
        return piece


class Inflater:
    """Feed it compressed bytes in order; what they hold comes in pieces. Streams may be put one behind the other."""

    def __init__(
        self, packing: Packing, *, subject: str = "body", reason: str = "its Content-Encoding says so"
    ) -> None:
        """`subject` and `reason` are for messages: what is compressed, and why that is believed."""
        self._packing = packing
        self._subject = subject
        self._reason = reason
        self._make, self._error = _find_decoder(packing)
        self._decoder = self._make()
        self._is_within = False
        """A stream has begun and not ended."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes hold; to be taken whole. Raises InvalidInput where they do not belong."""
        while data or not self._decoder.needs_input:
            try:
                piece = self._decoder.decompress(data, _PIECE_BYTES)
            except self._error as error:
                raise self._refuse(error) from None
            self._is_within = not self._decoder.eof
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data
                self._decoder = self._make()
            if piece:
                yield piece

    def finish(self) -> None:
        """Raises InvalidInput if there is more to come."""
        if self._is_within:
            message = f"The {self._packing.label} {self._subject} ends too early."
            raise InvalidInput(message, param=self._param, code="malformed_encoding")

    @property
    def _param(self) -> str | None:
        return None if self._subject == "body" else self._subject

    def _refuse(self, error: Exception) -> InvalidInput:
        if "memory" in str(error):
            message = (
                f"The {self._packing.label} {self._subject} looks back further than 8 MiB, which would take as much "
                "memory; compress it without --ultra and --long."
            )
        else:
            message = f"The {self._subject} is not valid {self._packing.label}, although {self._reason}."
        return InvalidInput(message, param=self._param, code="malformed_encoding")


class Unpacker:
    """Bytes of a file, inflated if they begin as those of a compressed one, else as they are."""

    def __init__(self) -> None:
        self.packing: Packing | None = None
        """How the file is compressed; None: it is not, or that is not known yet."""
        self._beginning: bytes | None = b""
        self._inflater: Inflater | None = None
        self._digest = hashlib.sha256()

    @property
    def packed_sha256(self) -> str | None:
        """Of the bytes as they came; None: they are not compressed."""
        return None if self._inflater is None else self._digest.hexdigest()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes hold; to be taken whole. Raises InvalidInput."""
        if self._beginning is not None:
            data = self._beginning + data
            self._beginning = data if len(data) < _LONGEST_MARK else None
            if self._beginning is not None:
                return iter(())
            self._begin(data)
        return self._inflate(data)

    def finish(self) -> Iterator[bytes]:
        """What is still held back; raises InvalidInput if the file is cut off."""
        if self._beginning:
            beginning, self._beginning = self._beginning, None
            self._begin(beginning)
            yield from self._inflate(beginning)
        if self._inflater is not None:
            self._inflater.finish()

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            return iter((data,))
        self._digest.update(data)
        return self._inflater.feed(data)

    def _begin(self, beginning: bytes) -> None:
        self.packing = Packing.recognise(beginning)
        if self.packing is not None:
            self._inflater = Inflater(self.packing, subject="file", reason="it begins so")


def name_unpacked(filename: str) -> str:
    """What a compressed file is called once it is inflated."""
    ending = next((ending for ending in ENDINGS if filename.lower().endswith(ending)), "")
    return filename[: len(filename) - len(ending)] or filename


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading from its start to its end, inflated if it is compressed; raises OSError.

    Reading raises InvalidInput where a compressed file is damaged or cut off.
    """
    file = path.open("rb")
    if Packing.recognise(file.peek(_LONGEST_MARK)) is None:
        return file
    return io.BufferedReader(_Unpacked(file), _PIECE_BYTES)


class _Unpacked(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pieces = _unpack(file)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        room = memoryview(buffer)
        size = min(len(room), len(self._rest))
        room[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _unpack(file: BinaryIO) -> Iterator[bytes]:
    unpacker = Unpacker()
    while data := file.read(_READ_BYTES):
        yield from unpacker.feed(data)
    yield from unpacker.finish()


def _find_decoder(packing: Packing) -> tuple[Callable[[], _Decoder], type[Exception]]:
    if packing is Packing.GZIP:
        return _GzipDecoder, zlib.error
    # Loaded when the first one comes.
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
