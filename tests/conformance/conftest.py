"""A whole server with the null engine behind it, for real clients; and the table of what they did."""

import json
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.conformance.clients.catalogue import ClientEntry, Openings
from tests.conformance.clients.table import PASSED, Row, write_table
from tests.support.server_process import BackfillServer

API_KEY = "key-for-conformance"
FILE_SIZE_BYTES_MAX = 200_000
WAIT_S = 30
POLL_S = 0.02
# Only to tell what was collected from what was run.
NOT_RUN = "not run"

_ROWS = pytest.StashKey[dict[str, Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-clients-table", action="store_true", help="write docs/clients.md from this run")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note what each client shall do, before tests are deselected."""
    rows = config.stash.setdefault(_ROWS, {})
    for item in items:
        marker = item.get_closest_marker("flow")
        if marker is not None and isinstance(item, pytest.Function):
            entry = item.callspec.params["entry"]
            assert isinstance(entry, ClientEntry)
            rows[item.nodeid] = Row(entry.client, entry.version, entry.runtime, marker.args[0], NOT_RUN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how it ended."""
    report = yield
    rows = item.config.stash[_ROWS]
    if item.nodeid in rows and (report.when == "call" or report.outcome != "passed"):
        result = str(dict(report.user_properties).get("client_failure", PASSED))
        rows[item.nodeid] = rows[item.nodeid]._replace(result=result if report.passed else report.outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows = session.config.stash.get(_ROWS, {}).values()
    if session.config.getoption("write_clients_table", default=False) and session.testsfailed == 0:
        # A client that this machine cannot run must not fall out of the table unseen.
        assert all(row.result not in {NOT_RUN, "skipped"} for row in rows), "not every client was run"
        write_table(rows)


@pytest.fixture(scope="session")
def collected_rows(pytestconfig: pytest.Config) -> list[Row]:
    return list(pytestconfig.stash[_ROWS].values())


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    settings = {
        "server__api_keys": f'["{API_KEY}"]',
        "limits__file_size_bytes": str(FILE_SIZE_BYTES_MAX),
        "dispatch__cancel_grace_s": "0.2",
    }
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def openings(server: BackfillServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Openings]:
    with Openings(server.url, API_KEY, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    """Each test finds an engine that answers everything, however the one before left it."""
    engine.behave(hold=False, faults={}, fault_all=None, echo=True)
    yield
    engine.behave(hold=False, faults={}, fault_all=None, echo=True)


@pytest.fixture
def input_path(tmp_path: Path) -> Path:
    return tmp_path / "requests größe.jsonl"


def wait_for(retrieve: Callable[[], Any], *statuses: str) -> Any:
    """The batch once it has one of these statuses."""
    deadline = time.monotonic() + WAIT_S
    while (batch := retrieve())["status"] not in statuses:
        assert time.monotonic() < deadline, batch
        time.sleep(POLL_S)
    return batch


def read_lines(content: str) -> list[Any]:
    """The lines of a file of results; each one, the last too, has to have an end."""
    assert content.endswith("\n")
    return [json.loads(line) for line in content.split("\n")[:-1]]
