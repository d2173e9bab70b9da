"""How long a model's context is, as its file tells. The engine's library knows, but does not say."""

import struct
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

__all__ = ["read_context_tokens"]

_GGUF_MAGIC: Final = b"GGUF"
_STRING, _ARRAY = 8, 9
# By GGUF's number for a type: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LENGTH_SUFFIX: Final = ".context_length"


def read_context_tokens(model: Path) -> int:
    """The context of a GGUF file or a folder in OpenVINO's format, in tokens; 0 where it does not tell.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what its name says.

    """
    if model.is_dir():
        return _read_config(model / "config.json")
    with model.open("rb") as file:
        return _read_gguf(file)


def _read_config(path: Path) -> int:
    if not path.exists():
        return 0
    config = msgspec.json.decode(path.read_bytes())
    tokens = config.get("max_position_embeddings", 0) if isinstance(config, dict) else 0
    return tokens if isinstance(tokens, int) else 0


def _read_gguf(file: BinaryIO) -> int:
    """Read as far as the length, which stands long before the vocabulary."""
    if file.read(4) != _GGUF_MAGIC:
        raise ValueError("It is not a GGUF file.")
    _version, _tensors, members = _unpack(file, "IQQ")
    for _ in range(members):
        name = _read_string(file)
        value = _read_value(file, _unpack(file, "I")[0])
        if name.endswith(_LENGTH_SUFFIX) and isinstance(value, int):
            return value
    return 0


def _read_value(file: BinaryIO, kind: int) -> object:
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        inner, count = _unpack(file, "IQ")
        for _ in range(count):
            _read_value(file, inner)
        return None
    if kind not in _NUMBERS:
        raise ValueError(f"The GGUF file has a value of the unknown type {kind}.")
    return _unpack(file, _NUMBERS[kind])[0]


def _read_string(file: BinaryIO) -> str:
    (size,) = _unpack(file, "Q")
    return file.read(size).decode(errors="replace")


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    packed = struct.Struct("<" + form)
    data = file.read(packed.size)
    if len(data) < packed.size:
        raise ValueError("The GGUF file ends too early.")
    return packed.unpack(data)
