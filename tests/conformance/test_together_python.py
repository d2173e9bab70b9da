"""Together's own Python SDK, unmodified, against a real server."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import together
from together import AsyncTogether, Together

from bench.engine_process import NullEngine
from tests.conformance.conftest import API_KEY, FILE_SIZE_BYTES_MAX
from tests.support.lines import marker_of, request_line, request_lines
from tests.support.server_process import BackfillServer

CHAT: Final = "/v1/chat/completions"
FINAL = {"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}
TIMEOUT_S = 30
POLL_S = 0.02


@pytest.fixture
def client(server: BackfillServer) -> Iterator[Together]:
    with Together(api_key=API_KEY, base_url=server.url, max_retries=0) as found:
        yield found


def upload(client: Together, path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return client.files.upload(file=path, purpose="batch-api").id


def create(client: Together, file_id: str) -> str:
    job = client.batches.create(endpoint=CHAT, input_file_id=file_id).job
    assert job is not None
    assert job.id is not None
    return job.id


def wait_for(client: Together, batch_id: str, *states: str) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while (job := client.batches.retrieve(batch_id)).status not in (states or FINAL):
        assert time.monotonic() < deadline, job
        time.sleep(POLL_S)
    return job


def read_lines(content: bytes) -> list[Any]:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.decode().splitlines()]


def answer_of(line: Any) -> str:
    assert line["response"]["status_code"] == 200
    text: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return text


def test_the_whole_workflow(client: Together, engine: NullEngine, input_path: Path) -> None:
    engine.behave(faults={marker_of(1): ["422"]})
    content = request_lines(3)
    input_path.write_bytes(content)
    file = client.files.upload(file=input_path, purpose="batch-api")
    assert (file.filename, file.bytes, file.purpose) == (input_path.name, len(content), "batch-api")
    assert file.id in {one.id for one in client.files.list().data or []}
    assert client.files.retrieve(file.id).bytes == len(content)
    assert client.files.content(file.id).read() == content

    created = client.batches.create(endpoint=CHAT, input_file_id=file.id, completion_window="24h")
    assert created.job is not None
    assert created.job.id is not None
    assert not created.warning
    job = wait_for(client, created.job.id)
    assert (job.status, job.progress, job.input_file_id) == ("COMPLETED", 100.0, file.id)
    assert job.completed_at > job.created_at
    assert job.id in {one.id for one in client.batches.list()}

    output = read_lines(client.files.content(job.output_file_id).read())
    assert [line["custom_id"] for line in output] == ["request-0", "request-2"]
    assert answer_of(output[1]).startswith(f"marker-{marker_of(2)}")
    (refused,) = read_lines(client.files.content(job.error_file_id).read())
    assert refused["custom_id"] == "request-1"
    assert refused["error"]["message"]

    for file_id in (file.id, job.output_file_id, job.error_file_id):
        assert client.files.delete(file_id).model_dump()["id"] == file_id
    with pytest.raises(together.NotFoundError):
        client.files.retrieve(file.id)


async def test_the_whole_workflow_of_the_async_client(server: BackfillServer, input_path: Path) -> None:
    await asyncio.to_thread(input_path.write_bytes, request_lines(2))
    async with AsyncTogether(api_key=API_KEY, base_url=server.url, max_retries=0) as client:
        file = await client.files.upload(file=input_path, purpose="batch-api")
        created = await client.batches.create(endpoint=CHAT, input_file_id=file.id)
        assert created.job is not None
        assert created.job.id is not None
        async with asyncio.timeout(TIMEOUT_S):
            while (job := await client.batches.retrieve(created.job.id)).status not in FINAL:
                await asyncio.sleep(POLL_S)
        assert (job.status, job.error_file_id) == ("COMPLETED", None)
        assert job.id in {one.id for one in await client.batches.list()}
        assert job.output_file_id is not None
        content = await client.files.content(job.output_file_id)
        assert len(read_lines(await content.read())) == 2
        with pytest.raises(together.BadRequestError):
            await client.batches.cancel(created.job.id)


def test_cancel_keeps_what_was_answered(client: Together, engine: NullEngine, input_path: Path) -> None:
    file_id = upload(client, input_path, request_lines(40))
    engine.behave(hold=True)
    received = engine.stats()["received"]
    batch_id = create(client, file_id)
    engine.wait_for(lambda stats: stats["received"] > received)
    cancelled = client.batches.cancel(batch_id)
    # The oldest client knows no word for the time in between.
    assert cancelled.status == "IN_PROGRESS"
    engine.behave(hold=False)
    job = wait_for(client, batch_id)
    assert job.status == "CANCELLED"
    files = [file_id for file_id in (job.output_file_id, job.error_file_id) if file_id]
    lines = [line for file_id in files for line in read_lines(client.files.content(file_id).read())]
    assert sorted(line["custom_id"] for line in lines) == sorted(f"request-{number}" for number in range(40))
    assert "batch_cancelled" in {line["error"]["code"] for line in lines if "error" in line}


@pytest.mark.parametrize("root", ["", "/v1", "/together", "/together/v1"])
def test_any_base_url_will_do(server: BackfillServer, input_path: Path, root: str) -> None:
    with Together(api_key=API_KEY, base_url=server.url + root, max_retries=0) as client:
        file_id = upload(client, input_path, request_lines(1))
        assert wait_for(client, create(client, file_id)).status == "COMPLETED"


def test_bad_lines_fail_the_batch_and_are_named(client: Together, input_path: Path) -> None:
    content = b"\n".join([request_line(0), b"{not json", request_line(0), b'{"custom_id":"x"}'])
    input_path.write_bytes(content)
    # The SDK's own check would refuse the file before it is sent.
    file = client.files.upload(file=input_path, purpose="batch-api", check=False)
    job = wait_for(client, create(client, file.id))
    assert (job.status, job.output_file_id, job.error_file_id) == ("FAILED", None, None)
    for number in (2, 3, 4):
        assert f"line {number}: " in job.error


def test_what_is_not_there(client: Together) -> None:
    for ask in (
        lambda: client.files.retrieve("file-0"),
        lambda: client.files.content("file-0"),
        lambda: client.files.delete("file-0"),
        lambda: client.batches.retrieve("0"),
        lambda: client.batches.cancel("0"),
        lambda: client.batches.create(endpoint=CHAT, input_file_id="file-0"),
    ):
        with pytest.raises(together.NotFoundError) as caught:
            ask()
        assert "No such" in str(caught.value)


def test_a_file_that_is_too_large(client: Together, input_path: Path) -> None:
    with pytest.raises(together.APIStatusError) as caught:
        upload(client, input_path, request_line(0, pad="x" * FILE_SIZE_BYTES_MAX))
    assert caught.value.response.status_code == 413
    assert str(FILE_SIZE_BYTES_MAX) in str(caught.value)


def test_cancelling_what_has_ended(client: Together, input_path: Path) -> None:
    batch_id = create(client, upload(client, input_path, request_lines(1)))
    wait_for(client, batch_id)
    with pytest.raises(together.BadRequestError) as caught:
        client.batches.cancel(batch_id)
    assert "completed" in str(caught.value)


def test_an_endpoint_that_is_none(client: Together, input_path: Path) -> None:
    file_id = upload(client, input_path, request_lines(1))
    with pytest.raises(together.BadRequestError, match="/v1/chat/completions"):
        client.batches.create(endpoint="/v1/nothing", input_file_id=file_id)  # type: ignore[arg-type]


def test_a_key_that_is_not_ours(server: BackfillServer, input_path: Path) -> None:
    input_path.write_bytes(request_lines(1))
    with Together(api_key="wrong", base_url=server.url, max_retries=0) as client:
        for ask in (client.batches.list, lambda: client.files.upload(file=input_path, purpose="batch-api")):
            with pytest.raises(together.AuthenticationError):
                ask()


def run_tg(server: BackfillServer, folder: Path, *arguments: str) -> str:
    environment = os.environ | {
        "TOGETHER_API_KEY": API_KEY,
        "TOGETHER_BASE_URL": server.url,
        "TOGETHER_TELEMETRY_DISABLED": "1",
        "TOGETHER_DISABLE_VERSION_CHECK": "1",
        "HOME": str(folder),
    }
    command = [str(Path(sys.executable).with_name("tg")), *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_together_command_line(server: BackfillServer, client: Together, tmp_path: Path) -> None:
    """It asks /v3/whoami before each command."""
    path = tmp_path / "requests.jsonl"
    path.write_bytes(request_lines(2))
    submitted = json.loads(run_tg(server, tmp_path, "batches", "submit", str(path), "chat.completions", "--json"))
    batch_id = submitted.get("job", submitted)["id"]
    wait_for(client, batch_id)
    assert "COMPLETED" in run_tg(server, tmp_path, "batches", "get", batch_id, "--json")
    assert batch_id in run_tg(server, tmp_path, "batches", "list", "--json")
    run_tg(server, tmp_path, "batches", "download", batch_id, "--output", str(tmp_path / "out.jsonl"))
    assert len(read_lines((tmp_path / "out.jsonl").read_bytes())) == 2
