"""The commands of Together's guide, with curl itself where it is installed."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import API_KEY, wait_for
from tests.support.lines import request_lines
from tests.support.server_process import BackfillServer

CHAT = "/v1/chat/completions"
AUTHORIZATION = f"Authorization: Bearer {API_KEY}"


def run_curl(*arguments: str) -> bytes:
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--header", AUTHORIZATION, *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def ask(*arguments: str) -> Any:
    return json.loads(run_curl(*arguments))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("more", [[], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]])
def test_a_file_over_the_limit_is_a_413(server: BackfillServer, input_path: Path, more: list[str]) -> None:
    """Above 1 MB curl waits for a 100; the answer comes while the body is still under way."""
    input_path.write_bytes(b"x" * 3_000_000)
    answer = ask(f"{server.url}/v1/files", "-F", "purpose=batch-api", "-F", f"file=@{input_path}", *more)
    assert answer["error"]["code"] == "file_too_large"


def test_the_guide_over_plain_http(server: BackfillServer) -> None:
    headers = {"authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=f"{server.url}/v1", headers=headers, trust_env=False) as client:
        form = {"purpose": "batch-api"}
        file = client.post("/files", data=form, files={"file": ("in.jsonl", request_lines(2))}).json()
        created = client.post("/batches", json={"input_file_id": file["id"], "endpoint": CHAT})
        assert created.status_code == 201
        batch_id = created.json()["job"]["id"]
        job = wait_for(lambda: client.get(f"/batches/{batch_id}").json(), "COMPLETED")
        output = client.get(f"/files/{job['output_file_id']}/content")
        assert output.headers["content-length"] == str(len(output.content))
        assert len(output.content.splitlines()) == 2
