"""Requests in the create call, with the clients themselves."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import httpx
import openai
import pytest
import together

from bench.null.process import NullEngine
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer

CHAT: Final = "/v1/chat/completions"
REQUESTS: list[dict[str, Any]] = [json.loads(request_line(number)) for number in range(3)]


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url) as server:
        yield server


def follow(server: BackfillServer, batch_id: str) -> list[str]:
    """The custom ids of the results; the stream is open until the batch has ended."""
    url = f"{server.url}/v1/batches/{batch_id}/results"
    response = httpx.get(url, timeout=60, trust_env=False)
    response.raise_for_status()
    return sorted(json.loads(line)["custom_id"] for line in response.text.splitlines())


@pytest.mark.parametrize("absent", [openai.omit, None], ids=["omitted", "null"])
def test_openai_s_client_sends_them_beside_its_own_members(server: BackfillServer, absent: Any) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        made = client.batches.create(
            input_file_id=absent,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"name": "inline"},
            extra_body={"requests": REQUESTS},
        )
        assert follow(server, made.id) == ["request-0", "request-1", "request-2"]
        batch = client.batches.retrieve(made.id)
        assert (batch.status, batch.to_dict()["name"]) == ("completed", "inline")
        file = client.files.retrieve(batch.input_file_id)
        assert (file.purpose, file.filename) == ("batch", "requests.jsonl")
        assert batch.output_file_id is not None
        output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
        assert [line["response"]["status_code"] for line in output] == [200, 200, 200]


def test_together_s_client_sends_them_beside_its_own_members(server: BackfillServer) -> None:
    with together.Together(base_url=server.url, api_key="any") as client:
        made = client.batches.create(
            input_file_id=together.omit,  # type: ignore[arg-type]
            endpoint=CHAT,
            extra_body={"requests": REQUESTS},
        )
        assert made.job is not None
        assert made.job.id is not None
        assert follow(server, made.job.id) == ["request-0", "request-1", "request-2"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sends_them(server: BackfillServer) -> None:
    body = json.dumps({"endpoint": CHAT, "requests": REQUESTS})
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", f"{server.url}/v1/batches"]
    command += ["-H", "Idempotency-Key: once", "-d", body]
    made = [subprocess.run(command, capture_output=True, check=True, timeout=60).stdout for _ in range(2)]
    first, second = (json.loads(answer)["job"]["id"] for answer in made)
    assert first == second
    assert follow(server, first) == ["request-0", "request-1", "request-2"]
