"""Two processes get the same upload, parts or key at once, again and again: both answer the same, or one says no."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.company import Company
from tests.support.lines import request_lines
from tests.support.machines import Machines

ROUNDS = 8
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(params=["disk", pytest.param("elsewhere", marks=pytest.mark.scale)])
def company(request: pytest.FixtureRequest, engine: NullEngine, tmp_path: Path) -> Iterator[Company]:
    """Two processes that answer, with what they share on one disk or elsewhere."""
    if request.param == "disk":
        with Company(tmp_path / "data", engine.url, workers=0) as company:
            yield company
    else:
        with Machines(tmp_path, engine.url, request.getfixturevalue("remote_store"), workers=0) as machines:
            yield machines


def at_once(company: Company, *sends: Callable[[str], httpx.Response]) -> list[httpx.Response]:
    """What each of two processes answers to what is sent to it at the same moment."""
    together = threading.Barrier(2)

    def wait_and_send(send: Callable[[str], httpx.Response], url: str) -> httpx.Response:
        together.wait()
        return send(url)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(wait_and_send, sends, [api.url for api in company.apis]))


def check_winners(answers: list[httpx.Response], *, is_same: bool) -> list[bool]:
    """Who was told that it is done: both, if they asked for the same, else one. The other one was told what is wrong.

    With a 400: SDKs would send a request again that was answered 409.
    """
    won = [answer.status_code in {200, 201} for answer in answers]
    assert sum(won) == (2 if is_same else 1), [answer.text for answer in answers]
    for answer in answers:
        if answer.status_code not in {200, 201}:
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["code"] in {"file_already_uploaded", "idempotency_key_reuse"}
    return won


def put(path: str, content: bytes) -> Callable[[str], httpx.Response]:
    return lambda url: httpx.put(f"{url}{path}", content=content, headers=BYTES, timeout=30)


@pytest.mark.parametrize("is_same", [True, False])
def test_bytes_of_a_reserved_file(company: Company, *, is_same: bool) -> None:
    client = company.client
    form = {"purpose": "batch-api", "file_name": "input.jsonl", "file_type": "jsonl"}
    for number in range(ROUNDS):
        reserved = client.request("POST", "/v1/files", data=form)
        path = httpx.URL(reserved.headers["location"]).raw_path.decode()
        contents = [request_lines(100, number), request_lines(100, number if is_same else number + 1)]
        answers = at_once(company, *(put(path, content) for content in contents))
        won = check_winners(answers, is_same=is_same)
        file_id = reserved.headers["x-together-file-id"]
        for _ in company.apis:
            kept = client.request("GET", f"/v1/files/{file_id}/content").content
            # Nobody is told that his bytes are there when they are not.
            assert all(kept == content for content, has_won in zip(contents, won, strict=True) if has_won)


def test_parts_and_their_completion(company: Company) -> None:
    client = company.client
    for number in range(ROUNDS):
        content = request_lines(100, number)
        body: dict[str, Any] = {
            "file_name": "large.jsonl",
            "file_size": len(content),
            "num_parts": 1,
            "purpose": "batch-api",
            "checksum": hashlib.sha256(content).hexdigest(),
        }
        started = client.request("POST", "/v1/files/multipart/initiate", json=body).json()
        path = httpx.URL(started["parts"][0]["URL"]).raw_path.decode()
        parts = at_once(company, put(path, content), put(path, content))
        check_winners(parts, is_same=True)
        assert parts[0].headers["etag"] == parts[1].headers["etag"]
        named = {
            "upload_id": started["upload_id"],
            "file_id": started["file_id"],
            "parts": [{"part_number": 1, "etag": parts[0].headers["etag"]}],
        }

        def complete(url: str, named: dict[str, Any] = named) -> httpx.Response:
            return httpx.post(f"{url}/v1/files/multipart/complete", json=named, timeout=30)

        done = at_once(company, complete, complete)
        check_winners(done, is_same=True)
        assert len({answer.json()["file"]["id"] for answer in done if answer.status_code == 200}) == 1
        assert client.request("GET", f"/v1/files/{started['file_id']}/content").content == content
    assert len(client.list_ids("files")) == ROUNDS


@pytest.mark.parametrize("is_same", [True, False])
def test_a_batch_with_an_idempotency_key(company: Company, *, is_same: bool) -> None:
    client = company.client
    file_ids = [client.upload(request_lines(3)), client.upload(request_lines(4))]
    for number in range(ROUNDS):
        bodies = [
            {"endpoint": "/v1/chat/completions", "input_file_id": file_ids[0 if is_same else which]}
            for which in range(2)
        ]

        def create(body: dict[str, str], key: str = f"key-{number}") -> Callable[[str], httpx.Response]:
            asked: dict[str, Any] = {"json": body, "headers": {"idempotency-key": key}, "timeout": 30}
            return lambda url: httpx.post(f"{url}/v1/batches", **asked)

        answers = at_once(company, *map(create, bodies))
        check_winners(answers, is_same=is_same)
        made = {answer.json()["job"]["id"] for answer in answers if answer.status_code < 400}
        assert len(made) == 1
        assert len(client.list_ids("batches")) == number + 1
