"""A server of pictures in a process of its own, each of which takes a while: `python -m bench.media.picture_server`.

GET /<number>.png    the picture of this number, after the delay
GET /count           how often pictures were asked for
"""

import argparse
import asyncio
import base64
import json
import random
import struct
import subprocess
import sys
import urllib.request
import zlib

from bench.ready_process import ReadyProcess

__all__ = ["PictureServer", "make_data_url", "make_picture"]

_SIDE = 80
# The server is on this machine: a proxy from the environment would only be in the way.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def make_picture(number: int, side: int = _SIDE) -> bytes:
    """Noise as a PNG, of three bytes a pixel, since nothing of it can be packed; each number has its own."""
    dice = random.Random(number)
    rows = b"".join(b"\0" + dice.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def make_data_url(picture: bytes) -> str:
    """The picture in a URL of its own."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


class PictureServer(ReadyProcess):
    """The process; a context manager."""

    def __init__(self, delay_ms: float) -> None:
        self._delay_ms = delay_ms

    def count_fetches(self) -> int:
        """How often pictures were asked for."""
        with _OPENER.open(f"{self.url}/count") as response:
            return int(json.loads(response.read()))

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bench.media.picture_server", "--delay-ms", str(self._delay_ms)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)


class _Service:
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._fetches = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                body, media_type = await self._find(path)
                lines = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(lines.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _find(self, path: str) -> tuple[bytes, str]:
        if path == "/count":
            return json.dumps(self._fetches).encode(), "application/json"
        self._fetches += 1
        await asyncio.sleep(self._delay_s)
        return make_picture(int(path.removeprefix("/").removesuffix(".png"))), "image/png"


async def _serve(delay_s: float) -> None:
    server = await asyncio.start_server(_Service(delay_s).answer, "127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay-ms", type=float, required=True)
    asyncio.run(_serve(parser.parse_args().delay_ms / 1000))
