"""Lines that are no requests, as a user of the command line and of the API meets them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest
import together

from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.support.client import Client
from tests.support.lines import request_line
from tests.support.server_process import BackfillServer

CHAT: Final = "/v1/chat/completions"
LINES = [request_line(0), b"{", b"", request_line(0), request_line(1)]
DATA = b"\n".join(LINES) + b"\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_bytes(DATA)
    return tmp_path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_run_passes_over_them_if_it_is_told_to(engine: NullEngine, folder: Path) -> None:
    command = ("run", "in.jsonl", "-o", "out.jsonl", "--engine", engine.url)
    code, _, err = backfill(*command, folder=folder)
    assert (code, "2 problems; nothing was run" in err) == (2, True)
    code, _, err = backfill(*command, "--on-invalid-lines", "error_file", folder=folder)
    assert (code, "2 answered, 2 failed" in err) == (1, True)
    assert [line["custom_id"] for line in read(folder / "out.jsonl")] == ["request-0", "request-1"]
    found = [(line["custom_id"], line["error"]["line"]) for line in read(folder / "out.errors.jsonl")]
    assert found == [(None, 2), ("request-0", 4)]


def test_run_says_it_where_nothing_is_left(engine: NullEngine, folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(b"{\n{}\n")
    command = ("run", "in.jsonl", "-o", "out.jsonl", "--engine", engine.url, "--on-invalid-lines", "error_file")
    code, _, err = backfill(*command, folder=folder)
    assert (code, "2 problems; nothing was run" in err) == (2, True)
    assert not (folder / "out.jsonl").exists()


def test_check_shows_what_would_become_of_them(folder: Path) -> None:
    code, out, _ = backfill("check", "in.jsonl", folder=folder)
    assert (code, out.splitlines()[-1]) == (2, "2 problems of the file: a batch of it fails")
    code, out, _ = backfill("check", "in.jsonl", "--on-invalid-lines", "error_file", folder=folder)
    named = out.splitlines()
    assert code == 1
    assert named[0].startswith("in.jsonl:2: not sent: The line is not valid JSON")
    assert named[1].startswith('in.jsonl:4: not sent: custom_id "request-0" is used by line 1 already.')
    assert named[-1] == "2 requests would not be sent; the other 2 can be run"


def test_check_goes_by_the_settings(folder: Path) -> None:
    variables = {"BACKFILL_LIMITS__ON_INVALID_LINES": "error_file"}
    assert backfill("check", "in.jsonl", folder=folder, variables=variables)[0] == 1
    assert backfill("check", "in.jsonl", "--on-invalid-lines", "fail", folder=folder, variables=variables)[0] == 2


def test_submit_passes_it_on(server: BackfillServer, folder: Path) -> None:
    variables = {"BACKFILL_URL": server.url}
    command = ("submit", "in.jsonl", "--wait", "--on-invalid-lines", "error_file")
    code, out, err = backfill(*command, folder=folder, variables=variables)
    assert (code, "COMPLETED: 2 answered, 2 failed" in err) == (1, True)
    code, out, _ = backfill("failures", out.strip(), "--json", folder=folder, variables=variables)
    assert code == 0
    assert {group["code"] for group in json.loads(out)} == {"invalid_json_line", "duplicate_custom_id"}


@pytest.mark.parametrize("members", [{"extra_body": {"on_invalid_lines": "error_file"}}, {"metadata": True}], ids=str)
def test_openai_s_client_asks_for_it_in_both_ways(server: BackfillServer, members: dict[str, Any]) -> None:
    if "metadata" in members:
        members = {"metadata": {"on_invalid_lines": "error_file"}}
    target = {"method": "POST", "url": CHAT}
    lines = [json.dumps(json.loads(line) | target).encode() if line.startswith(b'{"') else line for line in LINES]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        file = client.files.create(file=("in.jsonl", b"\n".join(lines)), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **members)
        # It is open until the batch has ended.
        httpx.get(f"{server.url}/v1/batches/{made.id}/results", timeout=60, trust_env=False).raise_for_status()
        batch = client.batches.retrieve(made.id)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
        assert batch.error_file_id is not None
        errors = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert [line["custom_id"] for line in errors] == [None, "request-0"]
    assert [line["response"]["body"]["error"]["line"] for line in errors] == [2, 4]


def test_together_s_client_asks_for_it(server: BackfillServer, folder: Path) -> None:
    with together.Together(base_url=server.url, api_key="any") as client:
        file = client.files.upload(folder / "in.jsonl", purpose="batch-api", check=False)
        made = client.batches.create(
            input_file_id=file.id, endpoint=CHAT, extra_body={"on_invalid_lines": "error_file"}
        )
        assert made.job is not None
        assert made.job.id is not None
        batch = Client(server).wait_for_end(made.job.id)
    assert (batch["status"], batch["on_invalid_lines"]) == ("COMPLETED", "error_file")
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"on_invalid_lines": "skip"}, "on_invalid_lines"),
        ({"metadata": {"on_invalid_lines": "skip"}}, "metadata.on_invalid_lines"),
    ],
)
def test_another_word_is_refused(server: BackfillServer, members: dict[str, Any], param: str) -> None:
    body = {"endpoint": CHAT, "input_file_id": Client(server).upload(DATA)} | members
    response = httpx.post(f"{server.url}/v1/batches", json=body, trust_env=False)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert "error_file" in response.json()["error"]["message"]


def test_the_member_counts_more_than_the_metadata(server: BackfillServer) -> None:
    members = {"on_invalid_lines": "fail", "metadata": {"on_invalid_lines": "error_file"}}
    body = {"endpoint": CHAT, "input_file_id": Client(server).upload(DATA)} | members
    made = httpx.post(f"{server.url}/v1/batches", json=body, trust_env=False).json()["job"]
    assert Client(server).wait_for_end(made["id"])["status"] == "FAILED"
