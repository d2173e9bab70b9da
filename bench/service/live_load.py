"""Live requests at a server: streamed chats at given times, and how long each waits for its first token."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.service.arrivals import draw_arrivals

__all__ = ["LiveLoad", "Served"]

_TIMEOUT_S = 120.0


@dataclass
class Served:
    """What came of the requests of one run."""

    first_token_s: list[float] = field(default_factory=list)
    tokens: int = 0
    """Of their answers."""
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Served") -> None:
        """Take in another run."""
        self.first_token_s += other.first_token_s
        self.tokens += other.tokens
        self.failures += other.failures


class LiveLoad:
    """The same arrivals, each time it is run."""

    def __init__(self, url: str, rate_per_s: float, duration_s: float, seed: int = 1) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._arrivals = draw_arrivals(random.Random(seed), rate_per_s, duration_s)

    def __len__(self) -> int:
        return len(self._arrivals)

    def run(self, bodies: Sequence[dict[str, Any]]) -> Served:
        """Send one of the bodies at each arrival; returns when all are answered."""
        return asyncio.run(self._run(bodies))

    async def _run(self, bodies: Sequence[dict[str, Any]]) -> Served:
        served = Served()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        began_s = time.monotonic()
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as group,
        ):
            for at_s, body in zip(self._arrivals, bodies, strict=False):
                await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
                group.create_task(self._send(session, body, served))
        return served

    async def _send(self, session: aiohttp.ClientSession, body: dict[str, Any], served: Served) -> None:
        asked = body | {"stream": True, "stream_options": {"include_usage": True}}
        began_s, first_s, text = time.monotonic(), None, b""
        try:
            async with session.post(self._url, json=asked) as response:
                async for piece in response.content.iter_any():
                    first_s = first_s or time.monotonic() - began_s
                    text = (text + piece)[-4096:]
                if response.status != 200 or first_s is None:
                    served.failures.append(f"HTTP {response.status}: {text[:200]!r}")
                    return
        except (aiohttp.ClientError, TimeoutError) as error:
            served.failures.append(repr(error))
            return
        served.first_token_s.append(first_s)
        events = [event for event in text.split(b"\n\n") if b'"usage":{' in event.replace(b" ", b"")]
        if events:
            usage = json.loads(events[-1].removeprefix(b"data: "))["usage"]
            served.tokens += usage["completion_tokens"]
