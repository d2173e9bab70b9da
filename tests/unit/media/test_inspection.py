import os
import struct
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from backfill.config import MediaConfig, load_config
from backfill.errors import InvalidConfig
from backfill.media import MediaRefused, check_known, clip_length, convert_picture, find_format, inspect_media
from backfill.media.clip_length import read_length_ms
from backfill.media_file import MediaKind
from bench.media.hostile_server import wave
from tests.support.media import png

AUDIO, PICTURE = MediaKind.AUDIO, MediaKind.PICTURE
# 128 kbit/s at 44.1 kHz: 417 bytes a frame, 1152 samples.
MP3_FRAME = b"\xff\xfb\x90\x00" + bytes(413)


def box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + name + data


def film(brand: bytes, *others: bytes) -> bytes:
    return box(b"ftyp", brand + bytes(4) + b"".join(others))


HEADS = {
    "image/png": png(),
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "image/gif": b"GIF89a\1\0\1\0",
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "image/bmp": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0",
    "image/tiff": b"II*\0\x08\0\0\0",
    "image/avif": film(b"avif", b"mif1", b"miaf"),
    "image/heic": film(b"heic", b"mif1"),
    "audio/wav": wave(0.1),
    "audio/flac": b"fLaC\0\0\0\x22",
    "audio/ogg": b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis",
    "audio/ogg; opus": b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1",
    "audio/mp4": film(b"M4A ", b"isom", b"mp42"),
    "video/mp4": film(b"isom", b"mp41"),
    "video/quicktime": film(b"qt  "),
    "video/webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x84webm",
    "video/x-matroska": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x88matroska",
    "video/mpeg": b"\0\0\1\xba\x44\0",
    "audio/aiff": b"FORM\0\0\0\x20AIFFCOMM",
    "audio/aac": b"\xff\xf1\x50\x80\x02\x1f\xfc",
    "audio/mpeg": MP3_FRAME,
}


@pytest.mark.parametrize("media_type", HEADS)
def test_a_form_is_known_by_its_bytes(media_type: str) -> None:
    found = find_format(HEADS[media_type])
    assert found is not None
    assert found.media_type == media_type.partition(";")[0]
    assert (found.kind is PICTURE) == media_type.startswith("image/")


def test_tags_come_before_an_mp3() -> None:
    assert find_format(b"ID3\4\0\0\0\0\0\0") == find_format(MP3_FRAME)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xfb",
        b"<html>",
        b"%PDF-1.7",
        b"PK\3\4",
        b"\x7fELF",
        b"MZ",
        b"#EXTM3U\n",
        b"ffconcat version 1.0\n",
        b"RIFF\0\0\0\0AVI ",
        b"\xff\xff\xff\xff",
        b"\xff\xe8\x90\0",
        b"BM is no picture",
        b"\0\0\0\4ftypisom",
        b"\x1a\x45\xdf\xa3 and more",
        bytes(4096),
    ],
)
def test_what_is_no_media_has_no_form(head: bytes) -> None:
    assert find_format(head) is None


UNTAKEN = {
    "image/heic": film(b"heic", b"mif1"),
    "image/heic ": film(b"mif1", b"heix"),
    "image/heic  ": film(b"msf1", b"hevc"),
    "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "image/svg+xml ": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn -->\n<SVG/>",
    "image/jxl": b"\xff\x0a\xfa\x1f",
    "image/jxl ": b"\0\0\0\x0cJXL \r\n\x87\n",
    "image/jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "image/jp2 ": b"\xff\x4f\xff\x51\0\x29",
    "image/x-icon": b"\0\0\1\0\1\0\x10\x10",
    "image/vnd.adobe.photoshop": b"8BPS\0\1",
    "application/pdf": b"%PDF-1.7",
    "application/zip": b"PK\3\4\x14",
    "application/gzip": b"\x1f\x8b\x08",
    "text/html": b"\n<!DOCTYPE html><title>Not found</title>",
    "text/html ": b"<html><body><svg/></body></html>",
    "audio/mpeg": MP3_FRAME,
    "video/mp4": film(b"isom", b"mp41"),
    "of no known form": b"just words",
}
"""What clients send as pictures and is none that is taken; blanks behind a name set several of one form apart."""


@pytest.mark.parametrize("name", UNTAKEN)
def test_who_sends_another_form_is_told_which_it_is_and_which_are_taken(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(UNTAKEN[name])
    taken = "png, jpeg, gif, webp, bmp, tiff, avif"
    # Made ready for a built-in engine.
    with pytest.raises(MediaRefused) as refused:
        convert_picture(UNTAKEN[name], frozenset({"image/png"}), MediaConfig(), subject="It")
    assert refused.value.message == f"It is {name.strip()}; pictures are taken as {taken}."
    if name.startswith("image/heic"):
        # Engines that judge pictures themselves may read it.
        assert inspect_media(tmp_path / "x", PICTURE, MediaConfig(), "It").format.media_type == "image/heic"
        return
    with pytest.raises(MediaRefused) as refused:
        inspect_media(tmp_path / "x", PICTURE, MediaConfig(), "It")
    assert refused.value.message == f"It is {name.strip()}, and no picture that is taken: {taken}."
    if name.startswith(("audio", "video")):
        return
    # Where it is not known whether a picture or a clip is wanted.
    with pytest.raises(MediaRefused) as refused:
        check_known(UNTAKEN[name], "It")
    assert refused.value.message.startswith(f"It is {name.strip()}; taken are pictures ({taken}) and clips (wav, ")


def test_the_length_of_a_clip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(wave(2.5))
    assert read_length_ms(path) == 2500
    path.write_bytes(MP3_FRAME * 100)
    length_ms = read_length_ms(path)
    assert length_ms is not None
    assert abs(length_ms - 100 * 1152 / 44.1) < 60


def test_a_clip_out_of_a_pipe_is_as_long_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    piped = bytearray(wave(3.0, rate=16_000))
    piped[4:8] = piped[40:44] = b"\xff" * 4
    path.write_bytes(piped)
    length_ms = read_length_ms(path)
    assert length_ms is not None
    assert abs(length_ms - 3000) < 10


def ogg_page(number: int, position: int, data: bytes) -> bytes:
    sizes = bytes([255] * (len(data) // 255) + [len(data) % 255])
    begins = 2 if number == 0 else 0
    return b"OggS\0" + struct.pack("<BqIIIB", begins, position, 1, number, 0, len(sizes)) + sizes + data


def test_the_length_of_a_long_clip_in_many_pages_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    head = b"OpusHead\1\1" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    pages = [ogg_page(0, 0, head), ogg_page(1, 0, b"OpusTags" + bytes(8))]
    halves = range(4 * 3600 * 2)
    path.write_bytes(b"".join(pages + [ogg_page(half + 2, 24_000 * (half + 1), bytes(100)) for half in halves]))
    length_ms = read_length_ms(path)
    assert length_ms is not None
    # But for a page.
    assert abs(length_ms - 4 * 3_600_000) <= 500


def test_a_clip_that_is_slow_to_read_has_no_known_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip"
    form = wave(1.0)
    # Empty chunks without number before the one that says how long it is.
    path.write_bytes(form[:36] + b"none\0\0\0\0" * 200_000 + form[36:])
    assert find_format(path.read_bytes()[:4096]) is not None
    assert read_length_ms(path) is None
    monkeypatch.setattr(clip_length, "_READS_MAX", 10_000_000)
    assert read_length_ms(path) == 1000


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_a_broken_clip_has_no_known_length_or_some(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip"
    for size in (0, 1, 8, 100, 5000):
        path.write_bytes(HEADS[kind] + os.urandom(size))
        length_ms = read_length_ms(path)
        assert length_ms is None or length_ms > 0


def write_clip(path: Path, container: str, codec: str, rate: int) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 7 * rate), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = rate, 0
        queue = av.AudioFifo()
        for frame in av.AudioResampler(stream.codec_context.format, "mono", rate).resample(silence):
            queue.write(frame)
        size = stream.codec_context.frame_size or 1024
        while (frame := queue.read(size) or queue.read()) is not None:
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("container", "codec", "rate", "extension", "is_measured"),
    [
        ("wav", "pcm_s16le", 16_000, "wav", True),
        ("mp3", "libmp3lame", 44_100, "mp3", True),
        ("mp2", "mp2", 44_100, "mp3", True),
        ("ipod", "aac", 44_100, "m4a", True),
        ("mp4", "aac", 44_100, "mp4", True),
        ("mov", "aac", 44_100, "mov", True),
        ("ogg", "libopus", 48_000, "ogg", True),
        ("flac", "flac", 44_100, "flac", True),
        ("aiff", "pcm_s16be", 44_100, "aiff", True),
        ("webm", "libopus", 48_000, "webm", False),
        ("matroska", "libopus", 48_000, "mkv", False),
        ("adts", "aac", 44_100, "aac", False),
        ("mpeg", "mp2", 44_100, "mpeg", False),
    ],
)
def test_clips_as_encoders_write_them_are_known(
    tmp_path: Path, container: str, codec: str, rate: int, extension: str, is_measured: bool
) -> None:
    path = tmp_path / "clip"
    write_clip(path, container, codec, rate)
    facts = inspect_media(path, AUDIO, MediaConfig(), "The clip")
    assert facts.format.extension == extension
    assert (facts.duration_ms is not None) == is_measured
    assert facts.duration_ms is None or abs(facts.duration_ms - 7000) < 60


def test_limits_name_their_setting(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(wave(3.0))
    facts = inspect_media(path, AUDIO, MediaConfig(audio_length_s=3.0), "The clip")
    assert (facts.format.media_type, facts.duration_ms) == ("audio/wav", 3000)
    with pytest.raises(MediaRefused, match=r"The clip is 3 s long; at most 2 s are taken \(media.audio_length_s\)\."):
        inspect_media(path, AUDIO, MediaConfig(audio_length_s=2.0), "The clip")
    with pytest.raises(MediaRefused, match=r"The clip holds more than 100 bytes, .* \(media.audio_size_bytes\)\."):
        inspect_media(path, AUDIO, MediaConfig(audio_size_bytes=100), "The clip")
    with pytest.raises(MediaRefused, match="The clip is audio/wav, and no picture that is taken: png, "):
        inspect_media(path, PICTURE, MediaConfig(), "The clip")
    path.write_bytes(b"")
    with pytest.raises(MediaRefused, match="The clip holds nothing"):
        inspect_media(path, AUDIO, MediaConfig(), "The clip")


@pytest.mark.parametrize("entry", ["http://host", "host:80", "10.0.0.0/33", "", "a b", "*.internal", "host/path"])
def test_what_is_allowed_is_a_name_an_address_or_a_network(entry: str) -> None:
    with pytest.raises(ValidationError, match="is no network, no address and no name"):
        MediaConfig(allow=(entry,))
    MediaConfig(allow=("10.0.0.0/8", "::1", "fd00::/8", "minio.internal", "localhost", "bücher.example"))


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://host", "http://", "http://user:hidden@", "ftp://u:hidden@h"])
def test_a_proxy_is_a_url_and_is_not_told(proxy: str) -> None:
    with pytest.raises(InvalidConfig, match=r"media\.proxy") as caught:
        load_config(environment={}, overrides={"media.proxy": proxy})
    assert "hidden" not in str(caught.value)
    load_config(environment={}, overrides={"media.proxy": "http://user:password@proxy:3128"})
