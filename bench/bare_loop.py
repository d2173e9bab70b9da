"""The least that requests can cost: a loop that sends them and throws the answers away.

Run as `python -m bench.bare_loop URL`; prints one JSON object. `engine` sends through Backfill's own EngineClient,
which checks every answer; `plain` through an aiohttp session with the same settings and nothing around it. The bodies
are made before the clock starts: nothing is read from disk. The event loop is the fastest at hand, whatever the server
runs on.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import msgspec
from yarl import URL

from backfill.engines import Answered, EngineClient
from bench.input_file import make_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # no uvloop on Windows
    from asyncio import new_event_loop

__all__ = ["main"]

_TIMEOUT_S = 60.0
# As EngineClient has them.
_KEEP_ALIVE_S = 4.0
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "backfill",
}

_Send = Callable[[bytes], Awaitable[bool]]


@asynccontextmanager
async def _open_engine_client(url: URL) -> "AsyncIterator[_Send]":
    async with EngineClient(_TIMEOUT_S) as client:

        async def send(body: bytes) -> bool:
            return isinstance(await client.send(url, url.path, {}, body), Answered)

        yield send


@asynccontextmanager
async def _open_plain_session(url: URL) -> "AsyncIterator[_Send]":
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
    ) as session:

        async def send(body: bytes) -> bool:
            async with session.post(url, data=body, allow_redirects=False) as response:
                await response.read()
                return response.status == 200

        yield send


_CLIENTS: dict[str, Callable[[URL], AbstractAsyncContextManager[_Send]]] = {
    "engine": _open_engine_client,
    "plain": _open_plain_session,
}


async def _work(send: _Send, bodies: Iterator[bytes]) -> int:
    answered = 0
    for body in bodies:
        answered += await send(body)
    return answered


async def _measure(url: URL, client: str, lines: int, concurrency: int) -> dict[str, float]:
    bodies = [make_body(line) for line in range(lines)]
    async with _CLIENTS[client](url) as send:
        # One iterator for all: whoever is free takes the next body.
        shared = iter(bodies)
        started, cpu_started = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_work(send, shared)) for _ in range(concurrency)]
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    answered = sum(task.result() for task in tasks)
    if answered != lines:
        message = f"{answered} of {lines} requests were answered"
        raise SystemExit(message)
    return {"rps": lines / seconds, "cpu_s_per_1000": 1000 * cpu_s / lines}


def main() -> None:
    """Send all requests and print how fast that went."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare_loop", description="Requests in a bare loop.")
    parser.add_argument("url", help="the engine's base URL, without /v1")
    parser.add_argument("--client", choices=sorted(_CLIENTS), default="engine")
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    url = URL(options.url) / "v1" / "chat" / "completions"
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        figures = runner.run(_measure(url, options.client, options.lines, options.concurrency))
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
