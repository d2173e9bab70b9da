"""Every client of Together's dialect, unmodified, against a real server."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.conformance.clients.catalogue import TOGETHER_CLIENTS, TOGETHER_ONE_COMMAND, ClientEntry, Openings, each_of
from tests.conformance.clients.process import ClientError
from tests.conformance.clients.together import CommandLine, TogetherClient
from tests.conformance.conftest import FILE_SIZE_BYTES_MAX, read_lines, wait_for
from tests.support.lines import marker_of, request_line, request_lines

LIBRARIES = [entry for entry in TOGETHER_CLIENTS if entry.client == "together (PyPI)"]
ON_NODE = [entry for entry in TOGETHER_CLIENTS if entry.runtime == "Node, FormData upload"]
ASYNC_ONE = [entry for entry in LIBRARIES if entry.major == 1 and entry.runtime == "Python, async"]
COMMANDS = [entry for entry in TOGETHER_CLIENTS if entry.client == "tg"]

each_client = each_of(TOGETHER_CLIENTS)


@pytest.fixture
def client(openings: Openings, entry: ClientEntry) -> TogetherClient:
    return openings.open_together(entry)


def ids(listed: list[Any]) -> set[str]:
    return {each["id"] for each in listed}


def finish(client: TogetherClient, path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    batch_id = client.create(client.upload(path, check=False)["id"])["id"]
    return wait_for(lambda: client.retrieve(batch_id), "COMPLETED", "FAILED")


@pytest.mark.flow("upload to download and delete")
@each_client
def test_the_whole_flow(client: TogetherClient, engine: NullEngine, input_path: Path) -> None:
    engine.behave(faults={marker_of(1): ["422"]})
    content = request_lines(3)
    input_path.write_bytes(content)
    file = client.upload(input_path)
    assert (file["filename"], file["bytes"], file["purpose"]) == (input_path.name, len(content), "batch-api")
    assert file["id"] in ids(client.list_files())
    assert client.retrieve_file(file["id"])["bytes"] == len(content)
    assert client.download(file["id"]).encode() == content

    created = client.create(file["id"])
    job = wait_for(lambda: client.retrieve(created["id"]), "COMPLETED")
    assert (job["progress"], job["input_file_id"]) == (100.0, file["id"])
    assert datetime.fromisoformat(job["completed_at"]) > datetime.fromisoformat(job["created_at"])
    assert job["id"] in ids(client.list_batches())

    output = read_lines(client.download(job["output_file_id"]))
    assert [line["custom_id"] for line in output] == ["request-0", "request-2"]
    answer = output[1]["response"]
    assert answer["status_code"] == 200
    assert answer["body"]["choices"][0]["message"]["content"].startswith(f"marker-{marker_of(2)}")
    (refused,) = read_lines(client.download(job["error_file_id"]))
    assert refused["custom_id"] == "request-1"
    assert refused["error"]["message"]

    for file_id in (file["id"], job["output_file_id"], job["error_file_id"]):
        client.delete_file(file_id)
    assert not ids(client.list_files()) & {file["id"], job["output_file_id"]}


@pytest.mark.flow("cancel")
@each_client
def test_cancel_keeps_what_was_answered(client: TogetherClient, engine: NullEngine, input_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(8, 24)})
    received = engine.stats()["received"]
    input_path.write_bytes(request_lines(24))
    batch_id = client.create(client.upload(input_path)["id"])["id"]
    engine.wait_for(lambda stats: stats["received"] == received + 16)
    # The oldest client knows no word for the time in between.
    assert client.cancel(batch_id)["status"] in {"IN_PROGRESS", "CANCELLED"}
    job = wait_for(lambda: client.retrieve(batch_id), "CANCELLED")
    output = read_lines(client.download(job["output_file_id"]))
    errors = read_lines(client.download(job["error_file_id"]))
    assert [line["custom_id"] for line in output] == [f"request-{number}" for number in range(8)]
    assert [line["custom_id"] for line in errors] == [f"request-{number}" for number in range(8, 24)]
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}


@pytest.mark.flow("bad lines")
@each_client
def test_bad_lines_fail_the_batch_and_are_named(client: TogetherClient, input_path: Path) -> None:
    content = b"\n".join([request_line(0), b"{not json", request_line(0), b'{"custom_id":"x"}'])
    job = finish(client, input_path, content)
    assert (job["status"], job.get("output_file_id"), job.get("error_file_id")) == ("FAILED", None, None)
    for number in (2, 3, 4):
        assert f"line {number}: " in job["error"]


@pytest.mark.flow("bad requests")
@each_client
def test_a_bad_request_fails_alone(client: TogetherClient, input_path: Path) -> None:
    content = b"\n".join([request_line(0), request_line(1, stream=True), request_line(2)])
    job = finish(client, input_path, content)
    assert (job["status"], job["error"]) == ("COMPLETED", None)
    (error,) = read_lines(client.download(job["error_file_id"]))
    assert (error["custom_id"], error["error"]["code"]) == ("request-1", "invalid_request")
    assert [line["custom_id"] for line in read_lines(client.download(job["output_file_id"]))] == [
        "request-0",
        "request-2",
    ]


@pytest.mark.flow("unknown ids")
@each_client
def test_what_is_not_there(client: TogetherClient) -> None:
    for ask in (
        lambda: client.retrieve_file("file-0"),
        lambda: client.download("file-0"),
        lambda: client.delete_file("file-0"),
        lambda: client.retrieve("0"),
        lambda: client.cancel("0"),
        lambda: client.create("file-0"),
    ):
        with pytest.raises(ClientError) as caught:
            ask()
        # A command line shows the message only, and one client's download the status only.
        assert caught.value.status in {404, None}
        assert "No such" in caught.value.message or "downloading" in caught.value.message


@pytest.mark.flow("file too large")
@each_client
def test_a_file_that_is_too_large(client: TogetherClient, input_path: Path) -> None:
    input_path.write_bytes(request_line(0, pad="x" * FILE_SIZE_BYTES_MAX))
    with pytest.raises(ClientError) as caught:
        client.upload(input_path)
    assert caught.value.status == 413 or "413" in caught.value.message or "larger than" in caught.value.message


@pytest.mark.flow("cancel of a finished batch")
@each_client
def test_cancelling_what_has_ended(client: TogetherClient, input_path: Path) -> None:
    job = finish(client, input_path, request_lines(1))
    with pytest.raises(ClientError) as caught:
        client.cancel(job["id"])
    assert caught.value.status in {400, None}
    assert "completed" in caught.value.message


@pytest.mark.flow("wrong key")
@each_client
def test_a_key_that_is_not_ours(openings: Openings, entry: ClientEntry, input_path: Path) -> None:
    input_path.write_bytes(request_lines(1))
    client = openings.open_together(entry, api_key="wrong")
    with pytest.raises(ClientError) as caught:
        client.list_batches()
    assert caught.value.status in {401, None}
    assert "API key" in caught.value.message
    with pytest.raises(ClientError):
        client.upload(input_path)


@pytest.mark.flow("any base URL")
@each_of(LIBRARIES)
def test_any_base_url_will_do(openings: Openings, entry: ClientEntry, input_path: Path) -> None:
    for root in ("", "/v1", "/together", "/together/v1"):
        client = openings.open_together(entry, root=root)
        assert finish(client, input_path, request_lines(1))["status"] == "COMPLETED"


@pytest.mark.flow("unknown endpoint")
@each_of(LIBRARIES)
def test_an_endpoint_that_is_none(client: TogetherClient, input_path: Path) -> None:
    input_path.write_bytes(request_lines(1))
    file_id = client.upload(input_path)["id"]
    with pytest.raises(ClientError, match="/v1/chat/completions") as caught:
        client.create(file_id, "/v1/nothing")
    assert caught.value.status == 400


@pytest.mark.flow("files.upload without a shim")
@each_of(ON_NODE)
def test_the_upload_of_the_npm_package_fails_on_node(
    openings: Openings, entry: ClientEntry, input_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nothing that a server answers can mend it: it fails on its own PUT."""
    input_path.write_bytes(request_lines(1))
    client = openings.run_plain_node(entry)
    with pytest.raises(ClientError, match="duplex") as caught:
        client.upload(input_path)
    assert caught.value.kind == "TypeError"
    reason = "it streams the file with fetch and does not say `duplex`, which Node demands"
    record_property("client_failure", f"fails in the client: {reason}. Upload by FormData, or use Bun")


@pytest.mark.flow("files.upload and files.retrieve_content of AsyncTogether")
@each_of(ASYNC_ONE)
def test_the_oldest_async_client_has_no_way_for_content(
    openings: Openings, entry: ClientEntry, record_property: Callable[[str, object], None]
) -> None:
    """Its other flows send and fetch files through `Together`, as its user has to."""
    for method, arguments in (
        ("files.upload", {"file": "requests.jsonl"}),
        ("files.retrieve_content", {"id": "file-0", "output": "out.jsonl"}),
    ):
        with pytest.raises(ClientError) as caught:
            openings.call_python(entry, "AsyncTogether", method, **arguments)
        assert caught.value.kind == "NotImplementedError"
    record_property("client_failure", "fails in the client: not implemented. `Together` does both in its other flows")


@pytest.mark.flow("submit to download by name")
@each_of(COMMANDS)
def test_the_command_line_of_together(openings: Openings, entry: ClientEntry, tmp_path: Path) -> None:
    command = openings.open_command(entry)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(request_lines(2))
    assert json.loads(command.run("whoami", "--json"))
    submitted = json.loads(command.run("batches", "submit", str(path), "chat.completions", "--json"))
    batch_id = submitted.get("job", submitted)["id"]
    wait_for(lambda: command.retrieve(batch_id), "COMPLETED")
    # As a person sees it.
    assert "Completed" in command.run("batches", "get", batch_id, "--no-json")
    assert batch_id in command.run("batches", "list", "--json")
    command.run("batches", "download", batch_id, "--output", str(tmp_path / "out.jsonl"))
    assert len(read_lines((tmp_path / "out.jsonl").read_text())) == 2


@pytest.mark.flow("files")
@each_of([TOGETHER_ONE_COMMAND])
def test_the_command_line_of_the_oldest_client(openings: Openings, entry: ClientEntry, tmp_path: Path) -> None:
    """It has no command for batches."""
    command: CommandLine = openings.open_command(entry)
    path, copy = tmp_path / "requests.jsonl", tmp_path / "copy.jsonl"
    path.write_bytes(request_lines(2))
    uploaded = command.run("files", "upload", str(path), "--purpose", "batch-api")
    file_id = json.loads(uploaded[uploaded.index("{") :])["id"]
    assert file_id in command.run("files", "list")
    assert path.name in command.run("files", "retrieve", file_id)
    command.run("files", "retrieve-content", file_id, "--output", str(copy))
    assert copy.read_bytes() == path.read_bytes()
    assert file_id in command.run("files", "delete", file_id)
    with pytest.raises(ClientError, match="No such"):
        command.run("files", "retrieve", file_id)
