"""The size of a picture is read from its first bytes as a decoder finds it, and no bytes do any harm."""

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from backfill.wire import weigh_media
from backfill.wire.picture_size import read_data_url_size, read_picture_size

SIZES = [(1, 1), (20, 3000), (640, 480), (333, 7)]
FORMS = ["PNG", "GIF", "BMP", "JPEG", "WEBP", "WEBP lossless", "WEBP alpha", "JPEG progressive", "JPEG exif"]


def draw(form: str, size: tuple[int, int]) -> bytes:
    name, _, how = form.partition(" ")
    image = Image.new("RGBA" if how == "alpha" else "L" if name == "GIF" else "RGB", size)
    written = io.BytesIO()
    options: dict[str, Any] = {"lossless": {"lossless": True}, "progressive": {"progressive": True}}.get(how, {})
    if how == "exif":
        exif = Image.Exif()
        exif[0x9286] = "x" * 60_000  # a comment
        options = {"exif": exif}
    image.save(written, name, **options)
    return written.getvalue()


def to_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_the_size_is_what_a_decoder_finds(form: str, size: tuple[int, int]) -> None:
    assert features.check("webp")
    data = draw(form, size)
    assert read_picture_size(data) == size
    assert read_data_url_size(to_url(data)) == size
    for cut in range(min(len(data), 200)):
        assert read_picture_size(data[:cut]) in {None, size}


def test_an_old_bitmap_and_one_from_the_top_say_it_too() -> None:
    data = bytearray(draw("BMP", (5, 7)))
    data[22:26] = (-7).to_bytes(4, "little", signed=True)
    assert read_picture_size(bytes(data)) == (5, 7)
    assert read_picture_size(b"BM" + bytes(12) + b"\x0c\0\0\0\x05\0\x07\0") == (5, 7)


def test_tables_before_the_frame_of_a_jpeg_are_no_frames() -> None:
    frame = b"\xff\xc0\0\x0b\x08\0\x07\0\x05\x01\x01\x11\0"
    for marker in (0xC4, 0xC8, 0xCC, 0xDB, 0xE1):
        table = bytes([0xFF, marker]) + b"\0\x09" + b"\x01" * 7
        assert read_picture_size(b"\xff\xd8" + table + frame) == (5, 7)


@given(st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF1234WEBPVP8", b""]), st.binary())
def test_whatever_the_bytes_are_there_is_an_answer(magic: bytes, data: bytes) -> None:
    size = read_picture_size(magic + data)
    assert size is None or min(size) > 0


@given(st.text())
def test_whatever_a_url_is_there_is_an_answer(text: str) -> None:
    for url in (text, f"data:image/png;base64,{text}", f"data:image/png;base64,/9j/{text}"):
        assert read_data_url_size(url) is None or min(read_data_url_size(url) or ()) > 0


def test_a_jpeg_of_markers_alone_ends() -> None:
    assert read_picture_size(b"\xff\xd8" + b"\xff\xd0" * 100_000) is None
    assert read_picture_size(b"\xff\xd8" + b"\xff" * 100_000) is None
    assert read_picture_size(b"\xff\xd8" + b"\xff\xe1\0\0" * 10_000) is None


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [
        ((640, 480), None, 391),
        ((1362, 1724), None, 3038),
        ((1920, 1080), "high", 2691),
        ((1920, 1080), "low", 85),
        ((1, 1), None, 4),
        ((20_000, 20_000), None, 16_384),
    ],
)
def test_a_picture_counts_by_its_size(size: tuple[int, int], detail: str | None, tokens: int) -> None:
    # The header alone says it.
    header = b"\x89PNG\r\n\x1a\n" + bytes(8) + b"".join(side.to_bytes(4, "big") for side in size)
    url = to_url(header + bytes(100))
    part = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    body = json.dumps({"messages": [{"content": [part]}]})
    need = weigh_media(body.encode())
    assert (need.pictures, need.clips, need.tokens) == (1, 0, tokens)
    assert need.size_bytes == len(url) + 2
