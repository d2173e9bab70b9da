"""Every client of OpenAI's dialect, unmodified, against a real server."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.null.process import NullEngine
from tests.conformance.clients.catalogue import OPENAI_CLIENTS, TOGETHER_CLIENTS, ClientEntry, Openings, each_of
from tests.conformance.clients.openai import CHAT, OpenAIClient
from tests.conformance.clients.process import ClientError
from tests.conformance.conftest import FILE_SIZE_BYTES_MAX, read_lines, wait_for
from tests.support.lines import marker_of, request_line, request_lines

DAY_S = 86_400
STAMPS = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
TOGETHER = next(entry for entry in TOGETHER_CLIENTS if entry.version == "3.1.1")

each_client = each_of(OPENAI_CLIENTS)


@pytest.fixture
def client(openings: Openings, entry: ClientEntry) -> OpenAIClient:
    return openings.open_openai(entry)


def target_line(number: int, url: str = CHAT, method: str = "POST") -> bytes:
    return json.dumps(json.loads(request_line(number)) | {"method": method, "url": url}).encode() + b"\n"


def target_lines(count: int) -> bytes:
    return b"".join(target_line(number) for number in range(count))


def upload(client: OpenAIClient, path: Path, content: bytes) -> str:
    path.write_bytes(content)
    file_id: str = client.upload(path)["id"]
    return file_id


def finish(client: OpenAIClient, path: Path, content: bytes, **more: Any) -> Any:
    batch_id = client.create(upload(client, path, content), **more)["id"]
    return wait_for(lambda: client.retrieve(batch_id), "completed", "failed")


def set_stamps(batch: Any) -> set[str]:
    return {name for name in STAMPS if batch[name] is not None}


@pytest.mark.flow("upload to download and delete")
@each_client
def test_the_whole_flow(client: OpenAIClient, engine: NullEngine, input_path: Path) -> None:
    engine.behave(faults={marker_of(1): ["422"]})
    content = target_lines(3)
    input_path.write_bytes(content)
    file = client.upload(input_path, expires_after={"anchor": "created_at", "seconds": DAY_S})
    assert (file["object"], file["filename"], file["bytes"]) == ("file", input_path.name, len(content))
    assert (file["purpose"], file["expires_at"]) == ("batch", file["created_at"] + DAY_S)
    assert abs(file["created_at"] - time.time()) < 60
    assert client.wait_for_processing(file["id"])["status"] == "processed"
    assert client.retrieve_file(file["id"])["id"] == file["id"]
    assert client.download(file["id"]).encode() == content

    kept = {"anchor": "created_at", "seconds": DAY_S}
    created = client.create(file["id"], metadata={"job": "nightly"}, output_expires_after=kept)
    assert created["object"] == "batch"
    assert created["status"] in {"validating", "in_progress"}
    assert created["expires_at"] == created["created_at"] + DAY_S
    batch = wait_for(lambda: client.retrieve(created["id"]), "completed")
    check_completed(batch, file["id"])
    output = read_lines(client.download(batch["output_file_id"]))
    assert [line["custom_id"] for line in output] == ["request-0", "request-2"]
    assert all(line["error"] is None and line["response"]["status_code"] == 200 for line in output)
    assert output[0]["response"]["request_id"]
    (refused,) = read_lines(client.download(batch["error_file_id"]))
    assert (refused["custom_id"], refused["response"]["status_code"], refused["error"]) == ("request-1", 422, None)
    assert set(refused["response"]["body"]["error"]) >= {"message", "type", "param", "code"}

    output_file = client.retrieve_file(batch["output_file_id"])
    assert output_file["purpose"] == "batch_output"
    assert output_file["expires_at"] == output_file["created_at"] + DAY_S
    for file_id in (file["id"], batch["output_file_id"], batch["error_file_id"]):
        deleted = client.delete_file(file_id)
        assert (deleted["id"], deleted["object"], deleted["deleted"]) == (file_id, "file", True)
    assert file["id"] not in {one["id"] for one in client.collect_files()}


def check_completed(batch: Any, file_id: str) -> None:
    assert set_stamps(batch) == {"in_progress_at", "finalizing_at", "completed_at"}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    usage = batch["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (1024, 128, 1152)
    assert (usage["input_tokens_details"], usage["output_tokens_details"]) == (
        {"cached_tokens": 0},
        {"reasoning_tokens": 0},
    )
    assert (batch["metadata"], batch["errors"], batch["endpoint"]) == ({"job": "nightly"}, None, CHAT)
    assert (batch["input_file_id"], batch["completion_window"]) == (file_id, "24h")


@pytest.mark.flow("cancel")
@each_client
def test_cancel_keeps_what_was_answered(client: OpenAIClient, engine: NullEngine, input_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(8, 24)})
    before = engine.stats()
    file_id = upload(client, input_path, target_lines(24))
    batch_id = client.create(file_id)["id"]
    engine.wait_for(lambda stats: stats["received"] == before["received"] + 16)
    cancelling = client.cancel(batch_id)
    assert cancelling["status"] in {"cancelling", "cancelled"}
    assert cancelling["cancelling_at"]
    batch = wait_for(lambda: client.retrieve(batch_id), "cancelled")
    assert set_stamps(batch) == {"in_progress_at", "cancelling_at", "cancelled_at"}
    assert batch["request_counts"] == {"total": 24, "completed": 8, "failed": 16}
    output = read_lines(client.download(batch["output_file_id"]))
    errors = read_lines(client.download(batch["error_file_id"]))
    assert [line["custom_id"] for line in output] == [f"request-{number}" for number in range(8)]
    assert [line["custom_id"] for line in errors] == [f"request-{number}" for number in range(8, 24)]
    assert {(line["response"], line["error"]["code"]) for line in errors} == {(None, "batch_cancelled")}


@pytest.mark.flow("bad lines")
@each_client
def test_bad_lines_are_told_with_their_numbers(client: OpenAIClient, input_path: Path) -> None:
    lines = [
        target_line(0),
        b"{not json\n",
        target_line(0),
        target_line(3, url="/v1/embeddings"),
        target_line(4, method="GET"),
        request_line(5) + b"\n",
    ]
    batch = finish(client, input_path, b"".join(lines))
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
    assert set_stamps(batch) == {"failed_at"}
    assert batch["errors"]["object"] == "list"
    problems = batch["errors"]["data"]
    assert [problem["line"] for problem in problems] == sorted(problem["line"] for problem in problems)
    codes = {(problem["line"], problem["code"]) for problem in problems}
    assert {(2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "url_mismatch")} <= codes
    assert {line for line, _ in codes} == {2, 3, 4, 5, 6}
    assert all(problem["message"] for problem in problems)


@pytest.mark.flow("bad requests")
@each_client
def test_a_bad_request_fails_alone(client: OpenAIClient, engine: NullEngine, input_path: Path) -> None:
    received = engine.stats()["received"]
    bad = json.loads(target_line(1)) | {"body": {"model": "m", "messages": "hello"}}
    batch = finish(client, input_path, target_line(0) + json.dumps(bad).encode() + b"\n" + target_line(2))
    assert (batch["status"], batch["errors"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    (refused,) = read_lines(client.download(batch["error_file_id"]))
    assert (refused["custom_id"], refused["response"]["status_code"], refused["error"]) == ("request-1", 400, None)
    assert refused["response"]["body"]["error"]["param"] == "body.messages"
    assert engine.stats()["received"] == received + 2


@pytest.mark.flow("pages")
@each_client
def test_pages_come_to_an_end(client: OpenAIClient, input_path: Path) -> None:
    made = [finish(client, input_path, target_lines(1)) for _ in range(3)]
    batches, files = [batch["id"] for batch in reversed(made)], [batch["input_file_id"] for batch in made]

    first = client.list_batches(limit=2)
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (batches[:2], True)
    second = client.list_batches(limit=2, after=batches[1])
    assert second["data"][0]["id"] == batches[2]
    collected = [one["id"] for one in client.collect_batches(limit=2)]
    assert collected[:3] == batches
    assert len(set(collected)) == len(collected)
    assert client.list_batches(limit=1, after=collected[-1])["has_more"] is False

    page = client.list_files(limit=2, order="asc", purpose="batch", after=files[0])
    assert [one["id"] for one in page["data"]] == files[1:]
    newest_first = [one["id"] for one in client.collect_files(limit=2, purpose="batch")]
    assert newest_first[:3] == files[::-1]
    assert len(set(newest_first)) == len(newest_first)


@pytest.mark.flow("prefixes")
@each_client
def test_either_prefix_reads_the_same_batch(openings: Openings, entry: ClientEntry, input_path: Path) -> None:
    """A batch belongs to its owner, not to a dialect: the prefix only says in which words it is told."""
    own, other = (openings.open_openai(entry, root=root) for root in ("/openai/v1", "/together/v1"))
    batch = finish(own, input_path, target_lines(1))
    assert batch["status"] == "completed"
    told = other.retrieve(batch["id"])
    assert (told["id"], told["status"], told["progress"]) == (batch["id"], "COMPLETED", 100.0)
    assert len(read_lines(other.download(batch["output_file_id"]))) == 1

    together = openings.open_together(TOGETHER, root="/together/v1")
    input_path.write_bytes(request_lines(1))
    batch_id = together.create(together.upload(input_path)["id"])["id"]
    found = wait_for(lambda: own.retrieve(batch_id), "completed")
    assert found["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert batch_id in {one["id"] for one in own.collect_batches()}
    assert batch["id"] in {one["id"] for one in together.list_batches()}


@pytest.mark.flow("unknown ids")
@each_client
def test_what_is_not_there(client: OpenAIClient) -> None:
    for ask in (
        lambda: client.retrieve_file("file-0"),
        lambda: client.download("file-0"),
        lambda: client.delete_file("file-0"),
        lambda: client.retrieve("batch_0"),
        lambda: client.cancel("batch_0"),
        lambda: client.create("file-0"),
        lambda: client.list_batches(after="batch_0"),
    ):
        with pytest.raises(ClientError, match="No such") as caught:
            ask()
        assert (caught.value.kind, caught.value.status) == ("NotFoundError", 404)
        assert caught.value.fields["type"] == "invalid_request_error"
        assert caught.value.fields["code"]
        assert caught.value.fields["request_id"].startswith("req_")
    with pytest.raises(ClientError) as caught:
        client.create("file-0")
    assert caught.value.fields["param"] == "input_file_id"


@pytest.mark.flow("refused members")
@each_client
def test_what_is_refused_is_named(client: OpenAIClient, input_path: Path) -> None:
    file_id = upload(client, input_path, target_lines(1))
    for more, param in (
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after.seconds"),
        ({"metadata": {"note": "x" * 513}}, "metadata.note"),
    ):
        with pytest.raises(ClientError) as caught:
            client.create(file_id, **more)
        assert (caught.value.kind, caught.value.status) == ("BadRequestError", 400)
        assert caught.value.fields["param"] == param


@pytest.mark.flow("file too large")
@each_client
def test_a_file_that_is_too_large(client: OpenAIClient, input_path: Path) -> None:
    input_path.write_bytes(b"x" * (FILE_SIZE_BYTES_MAX + 1))
    with pytest.raises(ClientError) as caught:
        client.upload(input_path)
    assert (caught.value.status, caught.value.fields["code"]) == (413, "file_too_large")


@pytest.mark.flow("cancel of a finished batch")
@each_client
def test_cancelling_what_has_ended(client: OpenAIClient, input_path: Path) -> None:
    batch = finish(client, input_path, target_lines(1))
    with pytest.raises(ClientError, match="completed") as caught:
        client.cancel(batch["id"])
    assert (caught.value.kind, caught.value.status) == ("BadRequestError", 400)


@pytest.mark.flow("wrong key")
@each_client
def test_a_key_that_is_not_ours(openings: Openings, entry: ClientEntry, input_path: Path) -> None:
    input_path.write_bytes(target_lines(1))
    client = openings.open_openai(entry, api_key="wrong")
    with pytest.raises(ClientError, match="API key") as of_list:
        client.list_batches()
    with pytest.raises(ClientError, match="API key") as of_upload:
        client.upload(input_path)
    for caught in (of_list, of_upload):
        assert (caught.value.kind, caught.value.status) == ("AuthenticationError", 401)
