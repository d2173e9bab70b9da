"""The list of models, read by unmodified clients of every released shape: what is known of prices, and what is not."""

from collections.abc import Iterator
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.conformance.clients.catalogue import OPENAI_CLIENTS, TOGETHER_CLIENTS, ClientEntry, Openings, each_of
from tests.conformance.conftest import API_KEY
from tests.support.server_process import BackfillServer

KNOWN, FREE, UNKNOWN = "meta-llama/Llama-3.3-70B-Instruct-Turbo", "own/free", "own/unknown"
LIBRARIES = [entry for entry in TOGETHER_CLIENTS if entry.client == "together (PyPI)"]
COMMANDS = [entry for entry in TOGETHER_CLIENTS if entry.client == "tg"]
ON_NODE = [entry for entry in TOGETHER_CLIENTS if entry.runtime == "Node, FormData upload"]


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    settings = {
        "server__api_keys": f'["{API_KEY}"]',
        "engines__null__models": f'["{KNOWN}", "{FREE}", "{UNKNOWN}"]',
        "catalogue__models": f'{{"{FREE}" = {{input_per_million = 0, output_per_million = 0}}}}',
    }
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **settings) as running:
        yield running


def check_prices(models: list[Any], unknown: object) -> None:
    found = {model["id"]: model.get("pricing") for model in models}
    assert list(found) == sorted([KNOWN, FREE, UNKNOWN], key=str.lower)
    assert (found[KNOWN]["input"], found[KNOWN]["output"]) == (1.04, 1.04)
    assert (found[FREE]["input"], found[FREE]["output"]) == (0, 0)
    assert found[UNKNOWN] is None if unknown is None else found[UNKNOWN].items() >= {"input": None}.items()


@each_of(LIBRARIES)
def test_togethers_libraries(openings: Openings, entry: ClientEntry) -> None:
    class_name = "Together" if entry.runtime.endswith(" sync") else "AsyncTogether"
    if entry.major < 3:
        models = openings.call_python(entry, class_name, "models.list")
        check_prices(models, None if entry.major == 2 else {})
        assert {model["id"]: model["context_length"] for model in models}[KNOWN] == 131_072
        assert {model["type"] for model in models} == {"chat"}
        return
    models = openings.collect_python(entry, class_name, "models.list_supported")
    check_prices(models, {})
    assert {model["id"]: model["contextLength"] for model in models}[KNOWN] == "131072"
    one = openings.call_python(entry, class_name, "models.retrieve_supported", id=KNOWN)
    assert one["pricing"]["input"] == 1.04


@each_of(ON_NODE)
def test_togethers_library_on_node(openings: Openings, entry: ClientEntry) -> None:
    check_prices(openings.call_node(entry, "models.list"), None)


@each_of(COMMANDS)
def test_togethers_command_line(openings: Openings, entry: ClientEntry) -> None:
    words = ("models", "public") if entry.version.startswith("3") else ("models", "list")
    printed = openings.open_command(entry).run(*words)
    for name in (KNOWN, FREE, UNKNOWN):
        assert name.partition("/")[2][:12] in printed


@each_of(OPENAI_CLIENTS)
def test_openais_libraries(openings: Openings, entry: ClientEntry) -> None:
    client = openings.open_openai(entry)
    check_prices(client.collect_models(), {})
    assert client.retrieve_model(KNOWN)["owned_by"] == "meta-llama"
