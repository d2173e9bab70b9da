"""Pictures of strangers: known by their headers, stopped if they are not whole, changed where an engine needs it."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backfill.config import MediaConfig
from backfill.media import MediaRefused, check_picture, convert_picture, inspect_media
from backfill.media_file import MediaKind

CONFIG = MediaConfig()
TAKEN = frozenset({"image/png", "image/jpeg", "image/gif", "image/bmp"})
FORMS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}

MODES = {
    "PNG": ("RGB", "RGBA", "L", "P", "1"),
    "JPEG": ("RGB", "L", "1", "CMYK"),
    "GIF": ("RGB", "RGBA", "L", "P", "1"),
    "BMP": ("RGB", "RGBA", "L", "P", "1"),
    "WEBP": ("RGB", "RGBA", "L", "P", "1", "CMYK"),
    "TIFF": ("RGB", "RGBA", "L", "P", "1", "CMYK"),
    "AVIF": ("RGB", "RGBA", "L", "P", "1", "CMYK"),
}
"""The ways of having colours that each form knows, or that Pillow turns into one that it knows."""


def draw(form: str, size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: Any) -> bytes:
    image = Image.linear_gradient("L").resize(size).convert(mode)
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()


def bomb() -> bytes:
    """A PNG of 256 megapixels in some 31 kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes(16_000 // 8 + 1) * 16_000, 9)
    header = struct.pack(">IIBBBBB", 16_000, 16_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_what_it_is_stands_in_its_bytes(form: str, decode: bool, tmp_path: Path) -> None:
    data = draw(form)
    (tmp_path / "x").write_bytes(data)
    for picture in (data, tmp_path / "x"):
        assert check_picture(picture, CONFIG, decode=decode) == (FORMS[form], 60, 40)
    facts = inspect_media(tmp_path / "x", MediaKind.PICTURE, CONFIG, "It")
    assert (facts.format.media_type, facts.width, facts.height) == (FORMS[form], 60, 40)


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_an_engine_gets_it_as_it_is_or_as_a_png_of_the_same_look(form: str, mode: str, tmp_path: Path) -> None:
    data = draw(form, mode=mode)
    (tmp_path / "x").write_bytes(data)
    converted, media_type = convert_picture(data, TAKEN, CONFIG)
    assert (converted, media_type) == convert_picture(tmp_path / "x", TAKEN, CONFIG)
    if FORMS[form] in TAKEN:
        assert (converted, media_type) == (data, FORMS[form])
        return
    assert media_type == "image/png"
    with Image.open(io.BytesIO(converted)) as one, Image.open(io.BytesIO(data)) as other:
        assert one.mode in {"RGB", "RGBA"}
        assert one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def test_which_side_is_up_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    converted, _ = convert_picture(draw("WEBP", exif=exif), TAKEN, CONFIG)
    assert check_picture(converted, CONFIG, decode=True)[1:] == (40, 60)


def test_of_a_film_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    written = io.BytesIO()
    frames[0].save(written, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    converted, _ = convert_picture(written.getvalue(), TAKEN, CONFIG)
    with Image.open(io.BytesIO(converted)) as image:
        assert image.getpixel((4, 4)) == (255, 0, 0)


def test_a_small_file_of_very_many_pixels_is_known_by_its_header(tmp_path: Path) -> None:
    data = bomb()
    assert len(data) < 40_000
    (tmp_path / "x").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for look in (
            lambda: check_picture(data, CONFIG, decode=False),
            lambda: check_picture(data, CONFIG, decode=True),
            lambda: convert_picture(data, TAKEN, CONFIG),
            lambda: inspect_media(tmp_path / "x", MediaKind.PICTURE, CONFIG, "It"),
        ):
            with pytest.raises(MediaRefused, match=r"16,000 x 16,000 pixels.*50,000,000.*media\.picture_pixels"):
                look()


def test_the_limit_is_the_setting() -> None:
    data = draw("PNG", (100, 100))
    assert check_picture(data, MediaConfig(picture_pixels=10_000), decode=True).width == 100
    with pytest.raises(MediaRefused, match="100 x 100"):
        check_picture(data, MediaConfig(picture_pixels=9_999), decode=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_a_picture_is_noticed_where_an_engine_would_guess_the_rest(form: str, share: float) -> None:
    image = Image.effect_noise((200, 100), 80)
    written = io.BytesIO()
    image.save(written, form)
    data = written.getvalue()[: int(len(written.getvalue()) * share)]
    with pytest.raises(MediaRefused, match=r"damaged or cut off|cannot be read"):
        convert_picture(data, TAKEN, CONFIG)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "of no known form"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "cannot be read"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(50), "cannot be read"),
    ],
)
def test_what_is_none_is_told(data: bytes, words: str) -> None:
    with pytest.raises(MediaRefused, match=words):
        convert_picture(data, TAKEN, CONFIG)


def test_what_an_engine_takes_is_named_where_it_takes_no_png() -> None:
    with pytest.raises(MediaRefused, match="image/gif; of pictures, the engine takes image/jpeg"):
        convert_picture(draw("GIF"), frozenset({"image/jpeg"}), CONFIG)
    assert convert_picture(draw("JPEG"), frozenset({"image/jpeg"}), CONFIG)[1] == "image/jpeg"


@given(st.sampled_from(list(FORMS)), st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=8)), max_size=4))
def test_whatever_is_changed_in_a_picture_there_is_an_answer(form: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(draw(form, (9, 7)))
    for at, change in changes:
        place = at % len(data)
        data[place : place + len(change)] = change
    try:
        converted, media_type = convert_picture(bytes(data), TAKEN, MediaConfig(picture_pixels=100_000))
    except MediaRefused:
        return
    assert media_type in TAKEN
    assert converted
