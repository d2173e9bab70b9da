"""Compressed bytes: what they hold comes out whatever pieces they come in, and nothing else does."""

import gzip
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import InvalidInput
from backfill.inflation import Inflater, Packing, Unpacker, name_unpacked, open_unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK: dict[Packing, Callable[[bytes], bytes]] = {Packing.GZIP: gzip.compress, Packing.ZSTD: zstd.compress}
CONTENT = random.Random(1).randbytes(3000) + b"x" * 700_000

each_packing = pytest.mark.parametrize("packing", Packing)


def inflate(packing: Packing, data: bytes, size: int = 1000) -> bytes:
    inflater = Inflater(packing)
    pieces = [piece for start in range(0, len(data), size) for piece in inflater.feed(data[start : start + size])]
    inflater.finish()
    return b"".join(pieces)


def unpack(data: bytes, size: int) -> tuple[bytes, Unpacker]:
    unpacker = Unpacker()
    pieces = [piece for start in range(0, len(data), size) for piece in unpacker.feed(data[start : start + size])]
    return b"".join([*pieces, *unpacker.finish()]), unpacker


@each_packing
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_streams_behind_each_other_are_one(packing: Packing, size: int) -> None:
    pack = PACK[packing]
    assert inflate(packing, pack(CONTENT) + pack(b"") + pack(b"end"), size) == CONTENT + b"end"
    assert inflate(packing, b"", size) == b""


@each_packing
@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:5]], ids=["end", "beginning"])
def test_what_is_cut_off_is_named(packing: Packing, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidInput, match=f"The {packing.label} body ends too early"):
        inflate(packing, damage(PACK[packing](CONTENT)))


@each_packing
@pytest.mark.parametrize("behind", [b"behind", b"\0" * 10])
def test_what_does_not_belong_is_named(packing: Packing, behind: bytes) -> None:
    with pytest.raises(InvalidInput, match=f"not valid {packing.label}, although its Content-Encoding says so"):
        inflate(packing, PACK[packing](CONTENT) + behind)


@each_packing
def test_memory_is_bounded_whatever_is_packed(packing: Packing) -> None:
    if packing is Packing.GZIP:
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    else:
        compressor = zstd.ZstdCompressor()
        bomb = b"".join(compressor.compress(bytes(1_000_000)) for _ in range(200)) + compressor.flush()
    tracemalloc.start()
    try:
        inflater = Inflater(packing)
        assert sum(map(len, inflater.feed(bomb))) == 200_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


def test_a_frame_that_looks_back_too_far_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(CONTENT) + compressor.flush()
    with pytest.raises(InvalidInput, match="looks back further than 8 MiB"):
        inflate(Packing.ZSTD, packed)


@pytest.mark.parametrize("level", [1, 3, 19])
def test_what_the_command_packs_without_further_options_is_taken(level: int) -> None:
    assert inflate(Packing.ZSTD, zstd.compress(CONTENT, level=level)) == CONTENT


@given(st.binary(max_size=50), st.sampled_from([None, *Packing]), st.integers(1, 60))
def test_a_file_is_what_it_holds(content: bytes, packing: Packing | None, size: int) -> None:
    if packing is None and Packing.recognise(content) is not None:
        return
    data = content if packing is None else PACK[packing](content)
    found, unpacker = unpack(data, size)
    assert found == content
    assert unpacker.packing is packing
    assert (unpacker.packed_sha256 is None) is (packing is None)


@pytest.mark.parametrize("data", [b"\x1f", b"\x1f\x8b", b"\x28\xb5\x2f", b"a"])
def test_what_is_too_short_to_tell_is_kept_or_refused(data: bytes) -> None:
    if data == b"\x1f\x8b":
        with pytest.raises(InvalidInput, match="The gzip file ends too early"):
            unpack(data, 1)
    else:
        assert unpack(data, 1)[0] == data


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a.jsonl.gz", "a.jsonl"),
        ("A.JSONL.ZST", "A.JSONL"),
        ("a.zstd", "a"),
        ("a.gzip", "a"),
        ("a.jsonl", "a.jsonl"),
        (".gz", ".gz"),
        ("gz", "gz"),
    ],
)
def test_a_file_is_called_without_its_ending(name: str, plain: str) -> None:
    assert name_unpacked(name) == plain


@each_packing
def test_a_file_is_opened_as_what_it_holds(packing: Packing, tmp_path: Path) -> None:
    lines = [b"%d\n" % number for number in range(100_000)]
    (tmp_path / "packed").write_bytes(PACK[packing](b"".join(lines)))
    (tmp_path / "plain").write_bytes(b"".join(lines))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("packed", "plain"):
        with open_unpacked(tmp_path / name) as file:
            assert list(file) == lines
    with open_unpacked(tmp_path / "empty") as file:
        assert file.read() == b""
    (tmp_path / "cut").write_bytes(PACK[packing](b"".join(lines))[:-5])
    with open_unpacked(tmp_path / "cut") as file, pytest.raises(InvalidInput, match="ends too early"):
        file.read()
