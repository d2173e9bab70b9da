"""Where tests run side by side, the files that take longest begin first, so that none of them is left at the end."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from tests.support.machines import RemoteStore
from tests.support.rows import PostgresRows, RowsPlace, SqliteRows

LONGEST_FIRST = (
    "tests/engine/test_members.py",
    "tests/engine/test_oracle.py",
    "tests/crash/test_kill_server.py",
    "tests/conformance/test_together_dialect.py",
    "tests/acceptance/test_skill.py",
    "tests/unit/dispatch/test_concurrency.py",
    "tests/engine/test_audio_batch.py",
    "tests/engine/test_openvino_host.py",
    "tests/engine/test_openvino.py",
    "tests/engine/test_speech_host.py",
    "tests/crash/test_failing_disk.py",
    "tests/acceptance/test_run.py",
    "tests/acceptance/test_run_tables.py",
    "tests/acceptance/test_python.py",
    "tests/house/test_imports.py",
    "tests/unit/media/test_hostile.py",
    "tests/acceptance/test_media_links.py",
    "tests/acceptance/test_examples.py",
    "tests/engine/test_llamacpp_streams.py",
    "tests/engine/test_batch.py",
    "tests/engine/test_vision_example.py",
    "tests/engine/test_pictures.py",
    "tests/engine/test_templates.py",
    "tests/acceptance/test_openapi.py",
    "tests/unit/dispatch/test_media.py",
    "tests/unit/deliver/test_webhooks.py",
    "tests/crash/test_kill_fetches.py",
    "tests/engine/test_managed.py",
    "tests/conformance/test_audio.py",
    "tests/crash/test_kill_audio.py",
)
"""Those of ten seconds and more; the others follow as they are collected."""


# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        ranks = {file: rank for rank, file in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.fixture(autouse=True)
def _logs_as_imported() -> Iterator[None]:
    """A command that a test runs in this process sets logs up for it; the next test finds them as they were."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests of this process; each has a schema or a database of its own in it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """One for all tests of this process; each has a prefix of its own in it."""
    with ObjectServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def remote_store(postgres: PostgresServer, object_server: ObjectServer) -> RemoteStore:
    """Empty rows and files, for processes of several machines."""
    return RemoteStore(postgres, object_server, f"test_{uuid.uuid4().hex}")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.scale)])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> RowsPlace:
    """An empty database of each kind in turn: what holds for one holds for all."""
    if request.param == "sqlite":
        return SqliteRows(tmp_path)
    return PostgresRows(request.getfixturevalue("postgres"), f"test_{uuid.uuid4().hex}")
