"""Names that lead where a hostile name server has them lead, in this process."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["NAMES", "leading"]

NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "good.test": (("127.0.0.1",),),
    "localhost": (("127.0.0.2", "::1"),),
    "inner.test": (("127.0.0.2",),),
    "metadata.test": (("169.254.169.254",),),
    "mapped.test": (("::ffff:127.0.0.2",),),
    "translated.test": (("64:ff9b::7f00:2",),),
    "loopback.test": (("::1",), ("::1",)),
    "several.test": (("10.0.0.1", "127.0.0.2", "fd00::1"),),
    # What is looked up to be checked, and what is looked up to be used.
    "changing.test": (("127.0.0.1",), ("127.0.0.2",)),
    "private-first.test": (("127.0.0.2", "127.0.0.1"),),
}
"""Name -> the addresses of the first look-up, of the second, and so on; the last stays."""


@contextmanager
def leading() -> Iterator[dict[str, int]]:
    """Have each name of `NAMES` lead there; gives how often each was looked up. Other names are not looked up."""
    counts: dict[str, int] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, family: int = 0, *others: Any, **options: Any) -> Any:
        name = str(host).rstrip(".").lower()
        if name != "localhost" and not name.endswith(".test"):
            return real(host, port, family, *others, **options)
        name.encode("idna")  # fails as the real one does
        counts[name] = counts.get(name, 0) + 1
        known = NAMES.get(name)
        if known is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        addresses = known[min(counts[name], len(known)) - 1]
        return [entry for address in addresses for entry in real(address, port, type=socket.SOCK_STREAM)]

    socket.getaddrinfo = look_up
    try:
        yield counts
    finally:
        socket.getaddrinfo = real
