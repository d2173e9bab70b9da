"""Reads what stands before the weights in a GGUF file: metadata and what tensors there are.

After "GGUF" in the specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of gguf-py
makes an object of every token of the vocabulary, which takes seconds; here arrays are passed over.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["GgufHeader", "read_gguf_header"]

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A file's header."""

    metadata: Mapping[str, str | int | float]
    """Without the arrays."""
    tensors: Mapping[str, int]
    """Name -> ggml's number for its type."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header, some milliseconds for a vocabulary of 50,000 tokens.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no GGUF file of version 2 or 3, or it is cut off.

    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            message = "it is no GGUF file"
            raise ValueError(message)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Cursor(data).read_header()
            except (struct.error, UnicodeDecodeError, KeyError):
                message = "its header is damaged"
                raise ValueError(message) from None


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(_MAGIC)

    def read_header(self) -> GgufHeader:
        version = self._read("I")
        if version not in (2, 3):
            message = f"its GGUF version is {version}, and only 2 and 3 are known"
            raise ValueError(message)
        tensor_count, metadata_count = self._read("Q"), self._read("Q")
        metadata = {}
        for _ in range(metadata_count):
            name = self._read_string()
            value = self._read_value(self._read("I"))
            if value is not None:
                metadata[name] = value
        tensors = {}
        for _ in range(tensor_count):
            name = self._read_string()
            self._skip(8 * self._read("I"))
            tensors[name] = self._read("I")
            self._skip(8)
        return GgufHeader(metadata, tensors)

    def _read_value(self, kind: int) -> str | int | float | None:
        if kind == _STRING:
            return self._read_string()
        if kind != _ARRAY:
            value: int | float = self._read(_SCALARS[kind])
            return value
        inner, count = self._read("I"), self._read("Q")
        if inner == _STRING:
            for _ in range(count):
                self._skip(self._read("Q"))
        elif inner == _ARRAY:
            for _ in range(count):
                self._read_value(_ARRAY)
        else:
            self._skip(count * struct.calcsize(_SCALARS[inner]))
        return None

    def _read_string(self) -> str:
        size = self._read("Q")
        self._skip(size)
        return self._data[self._at - size : self._at].decode()

    def _read(self, code: str) -> int:
        value: int
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            message = "its header is cut off"
            raise ValueError(message)
