"""What every engine must do, whatever is behind it: a new adapter calls this with a way to make its replica."""

import asyncio
from collections.abc import Callable

import aiohttp
import msgspec

from backfill.engines import Answered, CacheHabit, Gauges, Lost, Refused, Replica

__all__ = ["exercise_engine", "list_open_paths"]

CHAT = "/v1/chat/completions"
_PATHS = (
    "GET /",
    "GET /health",
    "GET /metrics",
    "GET /slots",
    "GET /props",
    "GET /v1/models",
    "POST /tokenize",
    "POST /v1/completions",
    "POST /v1/chat/completions",
)


async def exercise_engine(make: Callable[[], Replica]) -> None:
    """Start, ask, be refused, look at the gauges, stop twice; `make` gives a replica that serves chat."""
    replica = make()
    assert replica.name
    assert replica.limits.concurrency >= 1
    assert CHAT in replica.limits.endpoints
    assert isinstance(replica.cache_habit, CacheHabit)
    assert address_of(replica) is None
    try:
        await asyncio.gather(*(replica.start() for _ in range(8)))
        address = address_of(replica)
        assert address is not None
        assert not address.endswith(("/", "/v1"))
        await replica.start()
        assert address_of(replica) == address
        await _ask(replica)
        assert isinstance(await replica.send(CHAT, b'{"model":"m"}'), Refused)
        assert isinstance(await replica.send(CHAT, b"{"), Refused)
        assert isinstance(await replica.send("/v1/nowhere", b"{}"), Refused)
        assert isinstance(await replica.read_gauges(), Gauges)
    finally:
        await replica.stop()
    await replica.stop()
    assert address_of(replica) is None
    assert isinstance(await replica.read_gauges(), Gauges)
    assert not isinstance(await replica.send(CHAT, b"{"), Answered)


async def list_open_paths(address: str, key: str) -> list[str]:
    """Which of an engine's paths answer whoever brings this key; asked as a form on a web page would ask."""
    headers = {"Content-Type": "text/plain", "Origin": "http://evil.example", "Host": "evil.example"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    found = []
    async with aiohttp.ClientSession(address, headers=headers) as session:
        for line in _PATHS:
            method, path = line.split()
            async with session.request(method, path, data=b"{}" if method == "POST" else None) as response:
                if response.status not in (401, 404):
                    found.append(line)
    return found


def address_of(replica: Replica) -> str | None:
    """The address now: mypy takes an attribute for the same as a moment ago, whatever was called since."""
    return replica.address


async def _ask(replica: Replica) -> None:
    messages = [{"role": "user", "content": "Say a word."}]
    body = msgspec.json.encode({"model": "m", "messages": messages, "max_tokens": 4, "temperature": 0})
    reply = await replica.send(CHAT, body)
    assert isinstance(reply, Answered), reply.message if isinstance(reply, Lost) else reply.body
    assert reply.usage.prompt_tokens > 0
    assert 0 < reply.usage.completion_tokens <= 4
    assert b"\n" not in reply.body
    answer = msgspec.json.decode(reply.body)
    assert answer["object"] == "chat.completion"
    assert [choice["index"] for choice in answer["choices"]] == [0]
