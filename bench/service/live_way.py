"""What the way through Backfill costs a live request: beside the engine itself, and beside a bare reverse proxy."""

import asyncio
import statistics
import time

import aiohttp
import uvloop

from bench.findings import Findings, Setting, tell
from bench.null.process import NullEngine
from bench.server_process import BackfillServer, name_null_engine
from bench.service.bare_proxy import BareProxy
from bench.workloads import make_chats

__all__ = ["measure_way"]

_REPEATS = 3
_PLACES = 32
_REQUESTS = 6_000
_ONE_BY_ONE = 500


def measure_way(setting: Setting, findings: Findings) -> None:
    """Latency one by one, and requests a second side by side, turn by turn."""
    requests, alone = setting.scale(_REQUESTS), setting.scale(_ONE_BY_ONE)
    with (
        NullEngine() as engine,
        BareProxy(engine.url) as proxy,
        BackfillServer(setting.make_folder() / "data", name_null_engine(engine.url, 64)) as server,
    ):
        urls = {"engine": engine.url, "proxy": proxy.url, "backfill": server.url}
        for url in urls.values():
            _measure(url, 50, _PLACES)
        for number in range(setting.count_repeats(_REPEATS)):
            latency_ms = {name: statistics.median(_measure(url, alone, 1)[1]) * 1000 for name, url in urls.items()}
            speed = {name: _measure(url, requests, _PLACES)[0] for name, url in urls.items()}
            findings.add(
                live_added_ms=latency_ms["backfill"] - latency_ms["engine"],
                live_over_proxy=speed["backfill"] / speed["proxy"],
                live_requests_per_s=speed["backfill"],
                live_proxy_requests_per_s=speed["proxy"],
                live_proxy_added_ms=latency_ms["proxy"] - latency_ms["engine"],
            )
            told = ", ".join(f"{name} {latency_ms[name]:.2f} ms and {speed[name]:.0f}/s" for name in urls)
            tell(f"the way of a live request, run {number + 1}: {told}")


def _measure(url: str, requests: int, places: int) -> tuple[float, list[float]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send_all(f"{url}/v1/chat/completions", requests, places))


async def _send_all(url: str, requests: int, places: int) -> tuple[float, list[float]]:
    """Requests a second, and how long each took."""
    (body,) = make_chats("null", 1, (16,), "way")
    took_s: list[float] = []
    left = iter(range(requests))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for _ in left:
                began_s = time.perf_counter()
                async with session.post(url, json=body) as response:
                    await response.read()
                    assert response.status == 200, response.status
                took_s.append(time.perf_counter() - began_s)

        began_s = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(places)))
        return requests / (time.perf_counter() - began_s), took_s
