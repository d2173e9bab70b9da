from collections.abc import AsyncIterator

import pytest

from backfill.media import library
from bench.media.hostile_server import HostileServer


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_BACKOFF_S", 0.0)


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with HostileServer() as running:
        yield running
