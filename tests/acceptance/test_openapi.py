"""The OpenAPI document is true: Schemathesis asks a real server what the document says, and much that it forbids."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

API_KEY = "key-for-openapi"
HEADERS = {"authorization": f"Bearer {API_KEY}"}
# Every check but the one that takes 400 for an answer to valid data: what a schema allows may still be wrong, such as
# the checksum of other bytes.
EXCLUDED_CHECKS = "positive_data_acceptance"
# How many examples of each operation, or for how many seconds ever more of them.
SHORT = ("--max-examples", "15")
LONG = ("--max-time", "180")
# In a form everything is a string, so that a "wrong type" is none, which this check does not know; nor that a wrong id
# may have become that of a thing that is there, where the query is let pass.
SETTINGS = """
[[operations]]
include-path-regex = "^/v1/(files|files/upload|uploads/[^/]+/parts|files/[^/]+/table|batches/[^/]+/results)$"
[operations.checks]
negative_data_rejection.enabled = false
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    settings = {"server__api_keys": f'["{API_KEY}"]', "limits__file_size_bytes": "200000"}
    with NullEngine() as engine, BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **settings) as running:
        yield running


def make_ids(client: httpx.Client) -> dict[str, list[str]]:
    """Files and batches of both dialects, and uploads that wait for parts."""
    found: dict[str, list[str]] = {"file_id": [], "batch_id": [], "upload_id": []}
    content = request_lines(3).replace(b'"custom_id"', b'"method":"POST","url":"/v1/chat/completions","custom_id"')
    for purpose in ("batch", "batch-api"):
        form = {"purpose": purpose}
        file = client.post("/v1/files", data=form, files={"file": ("input.jsonl", content)}).raise_for_status().json()
        wanted = {"endpoint": "/v1/chat/completions", "input_file_id": file["id"]}
        made = client.post("/v1/batches", json=wanted).raise_for_status().json()
        found["file_id"].append(file["id"])
        found["batch_id"].append(made.get("job", made)["id"])
    for number in range(5):
        wanted = {"filename": f"{number}.jsonl", "bytes": 1000, "mime_type": "application/jsonl", "purpose": "batch"}
        found["upload_id"].append(client.post("/v1/uploads", json=wanted).raise_for_status().json()["id"])
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("budget", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"])
def test_the_server_does_what_its_document_says(
    server: BackfillServer, tmp_path: Path, budget: tuple[str, ...]
) -> None:
    with httpx.Client(base_url=server.url, headers=HEADERS) as client:
        ids = make_ids(client)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {API_KEY}", "--exclude-checks", EXCLUDED_CHECKS]
    command += ["--seed", "1", "--continue-on-failure", "--no-shrink", *budget]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.acceptance.openapi_hooks",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OPENAPI_TEST_IDS": json.dumps(ids),
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.is_running
