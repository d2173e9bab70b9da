"""References to what must not be fetched, by what they try: none may lead to a file, nor to a place inside.

The server that they may ask stands for the internet, at 127.0.0.1; another, at 127.0.0.2 and ::1 and of the same port,
stands for what is inside, and must never be reached.
"""

import asyncio
import base64
import gzip
import struct
import zlib
from typing import NamedTuple
from urllib.parse import quote, unquote

from backfill.media_file import MediaKind, MediaReference
from bench.media.hostile_server import Asked, Reply, respond, wave

__all__ = ["LIMITS", "HostileReference", "list_references", "make_replies"]

LIMITS = {
    "allow": ("127.0.0.1/32",),
    "allow_http": True,
    "picture_size_bytes": 100_000,
    "audio_size_bytes": 100_000,
    "audio_length_s": 60.0,
    "connect_timeout_s": 5.0,
    "read_timeout_s": 0.5,
    "fetch_timeout_s": 1.5,
    "tries": 2,
}
"""Settings under which the references are tried, so that slow and endless ones take no long."""
# The beginning of a picture, and one of a single grey point.
PNG = b"\x89PNG\r\n\x1a\n"
GOOD_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
_ADDRESSES = (
    # This machine and its networks.
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.1.1",
    # What clouds answer to their own machines.
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "[fd00:ec2::254]",
    # What is for documents, tests, groups and nobody.
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[2001:db8::1]",
    "[3fff::1]",
    "[100::1]",
    "[ff02::1]",
    "[5f00::1]",
    "[4000::1]",
    # The same in the other family.
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fec0::1]",
    "[fd00::1]",
    "[fc00::1]",
    # An address in another.
    "[::ffff:127.0.0.2]",
    "[::ffff:7f00:2]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.2]",
    "[64:ff9b::127.0.0.2]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:2]",
    "[2002:7f00:2::1]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffd]",
    "[2001:4860::5efe:127.0.0.2]",
    "[2001:4860::200:5efe:10.0.0.1]",
)
_NUMBERS = (
    "2130706434",
    "0x7f000002",
    "0x7f.2",
    "127.2",
    "127.0.2",
    "0177.0.0.2",
    "017700000002",
    "127.0.0.2.",
    "127.000.000.002",
    "①②⑦.⓪.⓪.②",
)
_NAMES = (
    "localhost",
    "localhost.",
    "LOCALHOST",
    "inner.test",
    "INNER.test",
    "inner.test.",
    "metadata.test",
    "mapped.test",
    "translated.test",
    "loopback.test",
    "several.test",
)
_REDIRECTS = (
    "http://127.0.0.2:{port}/ok.png",
    "http://inner.test:{port}/ok.png",
    "http://localhost:{port}/ok.png",
    "http://[::1]:{port}/ok.png",
    "http://[::ffff:127.0.0.2]:{port}/ok.png",
    "http://2130706434:{port}/ok.png",
    "http://169.254.169.254/latest/meta-data/",
    "//127.0.0.2:{port}/ok.png",
    "/\\127.0.0.2:{port}/ok.png",
    "http:\\\\127.0.0.2:{port}\\ok.png",
    "http://127.0.0.1:{port}/to?http://127.0.0.2:{port}/ok.png",
    "http://user:secret@127.0.0.1:{port}/ok.png",
    "file:///etc/hostname",
    "ftp://127.0.0.2/ok.png",
    "gopher://127.0.0.2:{port}/_x",
    "data:image/png;base64,iVBORw0KGgo=",
    "javascript:alert(1)",
    "http://",
    "http://[::1",
    "http://127.0.0.1:99999/ok.png",
    "",
)
_SOURCES = (
    "file:///etc/hostname",
    "file://localhost/etc/hostname",
    "FILE:///etc/hostname",
    "/etc/hostname",
    "../../etc/hostname",
    "~/.ssh/id_rsa",
    "C:\\Windows\\win.ini",
    "\\\\127.0.0.2\\share\\a.png",
    "//127.0.0.2:{port}/ok.png",
    "ftp://127.0.0.2/ok.png",
    "gopher://127.0.0.2:{port}/_GET",
    "dict://127.0.0.2:{port}/x",
    "ldap://127.0.0.2:{port}/x",
    "s3://bucket/ok.png",
    "gs://bucket/ok.png",
    "unix:///run/docker.sock",
    "jar:http://127.0.0.2:{port}/a!/b",
    "view-source:http://127.0.0.2:{port}/ok.png",
    "concat:http://127.0.0.2:{port}/ok.png",
    "http:127.0.0.2:{port}/ok.png",
    "http:/127.0.0.2:{port}/ok.png",
    "http:///127.0.0.2:{port}/ok.png",
    "http:\\\\127.0.0.2:{port}\\ok.png",
    "http://",
    "https://",
    "http://:{port}/ok.png",
    "http://[::1",
    "http://[127.0.0.1]:{port}/ok.png",
    "http://127.0.0.1:99999/ok.png",
    "http://127.0.0.1:-1/ok.png",
    "http://127.0.0.1:{port}x/ok.png",
    "http://user:secret@127.0.0.1:{port}/ok.png",
    "http://user@127.0.0.1:{port}/ok.png",
    "http://:@127.0.0.1:{port}/ok.png",
    "http://127.0.0.1:{port}@127.0.0.2:{port}/ok.png",
    "http://127.0.0.2:{port}\\@127.0.0.1:{port}/ok.png",
    "http://127.0.0.1:{port}\\@127.0.0.2:{port}/ok.png",
    "http://127.0.0.2:{port}#@127.0.0.1:{port}/ok.png",
    "http://127.0.0.2:{port}?@127.0.0.1:{port}/ok.png",
    "http://127.0.0.1:{port}/ok.png HTTP/1.1\r\nHost: inner\r\n\r\n",
    "http://127.0.0.1:{port}/ok.png\r\nX-Injected: 1",
    "http://127.0.0.1:{port}/ok.png\x00",
    "http://127.0.0.2%00.good.test:{port}/ok.png",
    "http://127.0.0.2%2egood.test:{port}/ok.png",
    "http://127.0.0.2\t:{port}/ok.png",
    " http://127.0.0.2:{port}/ok.png",
    "http://" + "a" * 64 + ".test:{port}/ok.png",
    "http://nowhere.test:{port}/ok.png",
    "http://127.0.0.1:{port}/" + "a" * 9000,
    "file-00000000-0000-0000-0000-000000000000",
    "file-../../backfill.db",
    "file-",
    "",
    "data:",
    "data:image/png",
    "data:image/png,%89PNG",
    "data:image/png;base64,",
    "data:image/png;base64,iVBORw0KGgo",
    "data:image/png;base64,iVBO Rw0K Ggo=",
    "data:image/png;base64,iVBORw0KGgo=iVBORw0KGgo=",
    "data:image/png;base64,iVBORw0KGg%3D",
    "data:image/png;base64,iVBORw0K_-==",
    "data:image/png;base64,====",
    "data:image/png;base64,PGh0bWw+PC9odG1sPg==",
    "data:image/png;base64,iVBORw0KGgo" + "A" * 200_000 + "=",
    "data:image/png;" + "x=y;" * 200 + "base64,iVBORw0KGgo=",
)


class HostileReference(NamedTuple):
    """One thing to try."""

    name: str
    reference: MediaReference
    is_refused: bool = True
    """It must be refused for good; False: it is tried again, and given up."""


def _picture(source: str) -> MediaReference:
    return MediaReference(MediaKind.PICTURE, source, "body.messages[0].content[0].image_url.url")


def list_references(port: int) -> list[HostileReference]:
    """All of them, for servers at `port`."""
    listed = [
        HostileReference(f"address {host}", _picture(f"http://{host}:{port}/ok.png"))
        for host in (*_ADDRESSES, *_NUMBERS, *_NAMES)
    ]
    for form in _REDIRECTS:
        target = form.format(port=port)
        link = f"http://127.0.0.1:{port}/to?{quote(target, safe='')}"
        listed.append(HostileReference(f"redirect {target[:60]!r}", _picture(link)))
    for form in _SOURCES:
        source = form.format(port=port)
        listed.append(HostileReference(f"source {source[:60]!r}", _picture(source), is_refused="nowhere" not in source))
    for path in make_replies():
        if path not in ("/ok.png", "/to"):
            kind = MediaKind.AUDIO if path.startswith("/clip") else MediaKind.PICTURE
            reference = MediaReference(kind, f"http://127.0.0.1:{port}{path}", "body.file")
            listed.append(HostileReference(f"answer {path}", reference, is_refused=path not in _TRIED_AGAIN))
    return listed


async def _redirect(asked: Asked, writer: asyncio.StreamWriter) -> None:
    target = unquote(asked.target.partition("?")[2])
    writer.write(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    await writer.drain()


def _send(*pieces: bytes) -> Reply:
    async def reply(_: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return reply


def _send_on(head: bytes, piece: bytes, *, pause_s: float = 0.0) -> Reply:
    """For ever."""

    async def reply(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return reply


def _be_silent(head: bytes) -> Reply:
    async def reply(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await asyncio.Event().wait()

    return reply


_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_LENGTH = _HEAD + b"Content-Length: 90000\r\n\r\n"
_CHUNK = b"10000\r\n" + PNG + bytes(65536 - len(PNG)) + b"\r\n"
_TRIED_AGAIN = frozenset(
    {
        "/drip.png",
        "/silent",
        "/silent-after-head",
        "/cut-off.png",
        "/cut-off-chunk.png",
        "/bad-chunk.png",
        "/no-http",
        "/odd-transfer.png",
        "/old-http",
        "/always-continued",
        "/endless-head",
        "/many-heads",
        "/two-lengths.png",
        "/closes",
        "/408",
        "/425",
        "/429",
        "/500",
        "/502",
        "/503",
        "/504",
    }
)


def _write_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# 256 million pixels in some 30 kB.
_MANY_PIXELS = (
    PNG
    + _write_chunk(b"IHDR", struct.pack(">IIBBBBB", 16_000, 16_000, 1, 0, 0, 0, 0))
    + _write_chunk(b"IDAT", zlib.compress(bytes(16_000 * 2_001), 9))
    + _write_chunk(b"IEND", b"")
)


def make_replies() -> dict[str, Reply]:
    """What the outer server answers."""
    replies: dict[str, Reply] = {
        "/ok.png": respond(GOOD_PNG),
        "/to": _redirect,
        # Too much, and without an end.
        "/endless.png": _send_on(_CHUNKED, _CHUNK),
        "/endless-until-closed.png": _send_on(_HEAD + b"\r\n" + PNG, bytes(65536)),
        "/endless-html": _send_on(_HEAD + b"\r\n", b"<p>and so on</p>" * 100),
        "/clip-endless.wav": _send_on(_HEAD + b"\r\n" + wave(1.0)[:44], bytes(65536)),
        "/announced-huge.png": _be_silent(_HEAD + b"Content-Length: 99999999999\r\n\r\n" + PNG),
        "/a-byte-too-large.png": respond(GOOD_PNG + bytes(100_001 - len(GOOD_PNG))),
        "/endless-head": _send_on(_HEAD, b"X-More: and more\r\n"),
        "/many-heads": _send(_HEAD, b"X-More: 1\r\n" * 10_000, b"\r\n"),
        # Slow, silent, cut off.
        "/drip.png": _send_on(_LENGTH + PNG, b"x", pause_s=0.05),
        "/silent": _be_silent(b""),
        "/silent-after-head": _be_silent(_LENGTH),
        "/closes": _send(),
        "/cut-off.png": respond(GOOD_PNG, content_length="1000"),
        "/cut-off-chunk.png": _send(_CHUNKED + b"400\r\n" + PNG),
        "/bad-chunk.png": _send(_CHUNKED + b"zz\r\n" + PNG),
        "/two-lengths.png": _send(_HEAD + b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n" + PNG + b"x"),
        "/odd-transfer.png": _send(_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNK),
        "/switched": respond(b"", 101),
        "/always-continued": _send_on(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "/old-http": _send(GOOD_PNG),
        "/no-http": _send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        # Packed, so that a little becomes much.
        "/bomb.png": respond(gzip.compress(GOOD_PNG + bytes(1_000_000)), content_encoding="gzip"),
        "/many-pixels.png": respond(_MANY_PIXELS),
        "/packed.png": respond(gzip.compress(GOOD_PNG), content_encoding="br, gzip"),
        # Not what it should be.
        "/empty.png": respond(b""),
        "/html.png": respond(b"<!doctype html><html></html>", content_type="image/png"),
        "/json.png": respond(b'{"AccessKeyId": "x"}', content_type="image/png"),
        "/svg.png": respond(b'<svg xmlns="http://www.w3.org/2000/svg"/>', content_type="image/png"),
        "/pdf.png": respond(b"%PDF-1.7", content_type="image/png"),
        "/zip.png": respond(b"PK\3\4", content_type="image/png"),
        "/elf.png": respond(b"\x7fELF", content_type="image/png"),
        "/wave.png": respond(wave(0.1), content_type="image/png"),
        "/clip-picture.wav": respond(GOOD_PNG, content_type="audio/wav"),
        "/clip-playlist.m3u8": respond(b"#EXTM3U\nhttp://127.0.0.2/x\n", content_type="audio/mpegurl"),
        "/clip-concat.wav": respond(b"ffconcat version 1.0\nfile /etc/hostname\n", content_type="audio/wav"),
        "/clip-too-long.wav": respond(wave(100.0, rate=400)),
    }
    for status in (204, 205, 206, 300, 304, 305, 400, 401, 402, 403, 404, 405, 407, 410, 418, 451):
        replies[f"/{status}"] = respond(b"" if status in (204, 304) else GOOD_PNG, status)
    for status in (408, 425, 429, 500, 502, 503, 504):
        replies[f"/{status}"] = respond(GOOD_PNG, status, retry_after="0")
    return replies
