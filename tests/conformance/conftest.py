"""A whole server with the null engine behind it, for real clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.engine_process import NullEngine
from tests.support.server_process import BackfillServer

API_KEY = "key-for-conformance"
FILE_SIZE_BYTES_MAX = 200_000


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    settings = {
        "server__api_keys": f'["{API_KEY}"]',
        "limits__file_size_bytes": str(FILE_SIZE_BYTES_MAX),
    }
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    """Each test finds an engine that answers everything, however the one before left it."""
    engine.behave(hold=False, faults={}, fault_all=None, echo=True)
    yield
    engine.behave(hold=False, faults={}, fault_all=None, echo=True)


@pytest.fixture
def input_path(tmp_path: Path) -> Path:
    return tmp_path / "requests größe.jsonl"
