"""Names of hosts, looked up so that slow name servers hold up nobody else."""

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["Resolver"]

_Found = list[tuple[int, str]]


class Resolver(AbstractResolver):
    """Looks each name up in a thread of its own, for a look-up can be given up but not ended.

    Not in a pool: what was given up would keep its places from others. As daemons, so that no end of the process waits.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host; raises OSError, and UnicodeError of what no host can be called."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[_Found] = loop.create_future()

        def look_up() -> None:
            try:
                addresses = _look_up(host, port, family)
            except Exception as error:  # noqa: BLE001 - told where it is awaited
                _tell(loop, found, error)
            else:
                _tell(loop, found, addresses)

        threading.Thread(target=look_up, name="look up", daemon=True).start()
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in await found
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def _look_up(host: str, port: int, family: int) -> _Found:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(kind, str(address[0])) for kind, _, _, _, address in found]


def _tell(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[_Found]", result: _Found | Exception) -> None:
    def settle() -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    # The loop may be closed by now.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
