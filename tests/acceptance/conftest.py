import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def heeded_interrupts() -> Iterator[None]:
    """A shell has what it runs in the background ignore Ctrl-C, and children inherit that; here they are to heed it."""
    former = signal.getsignal(signal.SIGINT)
    if former is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
