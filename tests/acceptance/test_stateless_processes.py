"""Two processes that answer HTTP, each request to another one than the last: a client cannot tell them from one."""

import functools
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.company import Company
from tests.support.lines import marker_of, request_lines
from tests.support.machines import Machines, RemoteStore

KEY = "sk-of-both-processes"
CHAT = "/v1/chat/completions"
LINES = 40
PART_BYTES = 2000
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "EXPIRED"}
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def _plain_engine(engine: NullEngine) -> Iterator[None]:
    yield
    engine.behave(hold=False, faults=None, delay_ms=0)


@pytest.fixture(scope="module", params=["one machine", pytest.param("several machines", marks=pytest.mark.scale)])
def company(
    request: pytest.FixtureRequest, engine: NullEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("company")
    options: dict[str, Any] = {"workers": 1, "server__api_keys": json.dumps([KEY])}
    if request.param == "one machine":
        made = Company(folder / "data", engine.url, **options)
    else:
        postgres, objects = (request.getfixturevalue(name) for name in ("postgres", "object_server"))
        store = RemoteStore(postgres, objects, f"stateless_{uuid.uuid4().hex}")
        made = Machines(folder, engine.url, store, **options)
    with made as running:
        yield running


class Asker:
    """A client of whichever process has its turn."""

    def __init__(self, company: Company) -> None:
        self._company = company

    def ask(self, method: str, path: str, *, status: int = 200, **options: Any) -> httpx.Response:
        """One request, to the other process than the last one; its answer has to have this status."""
        headers = {"authorization": f"Bearer {KEY}"} | options.pop("headers", {})
        with httpx.Client(base_url=self._company.url, timeout=30, trust_env=False) as client:
            response = client.request(method, path, headers=headers, **options)
        assert response.status_code == status, response.text
        return response

    def ask_each(self, path: str) -> list[Any]:
        """What every process answers."""
        return [self.ask("GET", path).json() for _ in self._company.apis]

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[str]]:
        with (
            httpx.Client(base_url=self._company.url, timeout=30, trust_env=False) as client,
            client.stream("GET", path, headers={"authorization": f"Bearer {KEY}"}) as response,
        ):
            assert response.status_code == 200
            yield response.iter_lines()

    def upload(self, content: bytes) -> str:
        form: dict[str, Any] = {"data": {"purpose": "batch-api"}, "files": {"file": ("input.jsonl", content)}}
        return str(self.ask("POST", "/v1/files", **form).json()["id"])

    def create(self, content: bytes, *, key: str | None = None) -> str:
        body = {"endpoint": CHAT, "input_file_id": self.upload(content)}
        headers = {"idempotency-key": key} if key else {}
        return str(self.ask("POST", "/v1/batches", status=201, json=body, headers=headers).json()["job"]["id"])

    def retrieve(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/v1/batches/{batch_id}").json()
        return found

    def wait_for_end(self, batch_id: str) -> dict[str, Any]:
        Company.wait_until(lambda: self.retrieve(batch_id)["status"] in FINAL)
        first, second = self.ask_each(f"/v1/batches/{batch_id}")
        assert first == second
        ended: dict[str, Any] = first
        return ended

    def read(self, file_id: str) -> bytes:
        """The content of a file, the same from every process."""
        first, second = (self.ask("GET", f"/v1/files/{file_id}/content").content for _ in range(2))
        assert first == second
        return first


@pytest.fixture
def asker(company: Company) -> Asker:
    return Asker(company)


def cut(content: bytes) -> list[bytes]:
    return [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]


def path_of(url: str) -> str:
    """An address without the process that gave it."""
    return httpx.URL(url).raw_path.decode()


def ids_in(content: bytes) -> list[str]:
    return [json.loads(line)["custom_id"] for line in content.splitlines()]


NAMES = [f"request-{number}" for number in range(LINES)]


def test_a_form_sent_to_one_is_a_file_of_both(asker: Asker) -> None:
    content = request_lines(LINES)
    file_id = asker.upload(content)
    first, second = asker.ask_each(f"/v1/files/{file_id}")
    assert first == second
    assert all(file_id in {each["id"] for each in page["data"]} for page in asker.ask_each("/v1/files"))
    assert asker.read(file_id) == content


def test_an_address_given_by_one_takes_bytes_at_the_other(asker: Asker) -> None:
    content = request_lines(LINES)
    form = {"purpose": "batch-api", "file_name": "input.jsonl", "file_type": "jsonl"}
    reserved = asker.ask("POST", "/v1/files", status=302, data=form)
    file_id = reserved.headers["x-together-file-id"]
    path = path_of(reserved.headers["location"])
    asker.ask("PUT", path, content=content, headers=BYTES)
    assert asker.ask("POST", f"/v1/files/{file_id}/preprocess").status_code == 200
    assert asker.read(file_id) == content
    # A client that lost the answer sends the same again; other bytes neither takes.
    for _ in range(2):
        asker.ask("PUT", path, content=content, headers=BYTES)
        refused = asker.ask("PUT", path, status=400, content=request_lines(1), headers=BYTES)
        assert refused.json()["error"]["code"] == "file_already_uploaded"
    assert asker.read(file_id) == content


def test_parts_of_openai_go_to_both(asker: Asker) -> None:
    content = request_lines(LINES)
    wanted = {"filename": "a.jsonl", "bytes": len(content), "mime_type": "application/jsonl", "purpose": "batch"}
    upload_id = asker.ask("POST", "/v1/uploads", json=wanted).json()["id"]
    parts = [
        asker.ask("POST", f"/v1/uploads/{upload_id}/parts", files={"data": ("part", piece)}).json()["id"]
        for piece in cut(content)
    ]
    assert len(parts) > 2
    body = {"part_ids": parts, "md5": hashlib.md5(content).hexdigest()}
    done = asker.ask("POST", f"/v1/uploads/{upload_id}/complete", json=body).json()
    assert done["status"] == "completed"
    assert asker.read(done["file"]["id"]) == content
    # What is complete is so at both.
    again = {"files": {"data": ("part", b"more")}}
    for _ in range(2):
        refused = asker.ask("POST", f"/v1/uploads/{upload_id}/parts", status=400, **again)
        assert refused.json()["error"]["code"] == "file_already_uploaded"


def test_an_upload_that_one_cancels_is_gone_at_the_other(asker: Asker) -> None:
    wanted = {"filename": "a.jsonl", "bytes": 10, "mime_type": "application/jsonl", "purpose": "batch"}
    upload_id = asker.ask("POST", "/v1/uploads", json=wanted).json()["id"]
    assert asker.ask("POST", f"/v1/uploads/{upload_id}/cancel").json()["status"] == "cancelled"
    for _ in range(2):
        asker.ask("POST", f"/v1/uploads/{upload_id}/parts", status=404, files={"data": ("part", b"more")})


def test_parts_of_together_go_to_both(asker: Asker) -> None:
    content = request_lines(LINES)
    body = {
        "file_name": "large.jsonl",
        "file_size": len(content),
        "num_parts": len(cut(content)),
        "purpose": "batch-api",
        "checksum": hashlib.sha256(content).hexdigest(),
    }
    started = asker.ask("POST", "/v1/files/multipart/initiate", json=body).json()
    sent = []
    for part, piece in zip(started["parts"], cut(content), strict=True):
        answer = asker.ask("PUT", path_of(part["URL"]), content=piece, headers=BYTES)
        sent.append({"part_number": part["PartNumber"], "etag": answer.headers["etag"]})
    named = {"upload_id": started["upload_id"], "file_id": started["file_id"]}
    done = asker.ask("POST", "/v1/files/multipart/complete", json=named | {"parts": sent}).json()
    assert asker.read(done["file"]["id"]) == content


def test_a_create_sent_to_both_at_once_makes_one_batch(company: Company, asker: Asker, engine: NullEngine) -> None:
    before = len(asker.ask("GET", "/v1/batches").json())
    for attempt in range(10):
        body = {"endpoint": CHAT, "input_file_id": asker.upload(request_lines(2))}
        together = threading.Barrier(4)

        def send(url: str, body: dict[str, str] = body, key: str = f"once-{attempt}", together: Any = together) -> str:
            together.wait()
            headers = {"authorization": f"Bearer {KEY}", "idempotency-key": key}
            response = httpx.post(f"{url}/v1/batches", json=body, headers=headers, timeout=30, trust_env=False)
            response.raise_for_status()
            return str(response.json()["job"]["id"])

        with ThreadPoolExecutor(4) as threads:
            made = set(threads.map(send, [api.url for api in company.apis] * 2))
        assert len(made) == 1
        assert asker.wait_for_end(made.pop())["status"] == "COMPLETED"
    assert [len(page) for page in asker.ask_each("/v1/batches")] == [before + 10] * 2


def test_requests_in_the_call_itself_sent_to_both_make_one_batch_and_one_file(asker: Asker) -> None:
    requests = [json.loads(line) for line in request_lines(3).splitlines()]
    body, headers = {"endpoint": CHAT, "requests": requests}, {"idempotency-key": "inline"}
    made = {
        asker.ask("POST", "/v1/batches", status=201, json=body, headers=headers).json()["job"]["id"] for _ in range(4)
    }
    assert len(made) == 1
    ended = asker.wait_for_end(made.pop())
    assert ids_in(asker.read(ended["output_file_id"])) == NAMES[:3]


def test_a_batch_is_listed_and_ends_at_both(asker: Asker) -> None:
    batch_id = asker.create(request_lines(LINES))
    assert all(batch_id in {each["id"] for each in page} for page in asker.ask_each("/v1/batches"))
    first, second = asker.ask_each("/openai/v1/batches?limit=1")
    assert [each["id"] for each in first["data"]] == [each["id"] for each in second["data"]] == [batch_id]
    ended = asker.wait_for_end(batch_id)
    assert ended["status"] == "COMPLETED"
    assert ids_in(asker.read(ended["output_file_id"])) == NAMES


def test_a_list_is_paged_through_both(asker: Asker) -> None:
    made = [asker.create(request_lines(1)) for _ in range(5)]
    listed: list[str] = []
    while len(listed) < 5:
        query = "?limit=1" + (f"&after={listed[-1]}" if listed else "")
        listed += [each["id"] for each in asker.ask("GET", f"/openai/v1/batches{query}").json()["data"]]
    assert listed == made[::-1]
    for batch_id in made:
        asker.wait_for_end(batch_id)


def test_results_begun_at_one_go_on_at_the_other(asker: Asker, engine: NullEngine) -> None:
    engine.behave(delay_ms=50)
    batch_id = asker.create(request_lines(LINES))
    given: list[str] = []
    while len(given) < LINES:
        # A few lines from each, while the batch runs.
        with asker.stream(f"/v1/batches/{batch_id}/results?after={len(given)}") as lines:
            given += [json.loads(line)["custom_id"] for line, _ in zip(lines, range(7), strict=False)]
    assert sorted(given) == sorted(NAMES)
    asker.wait_for_end(batch_id)
    for _ in range(2):
        with asker.stream(f"/v1/batches/{batch_id}/results?after=0") as lines:
            assert [json.loads(line)["custom_id"] for line in lines] == given


def test_progress_is_told_alike_by_both(asker: Asker, engine: NullEngine) -> None:
    # The first half is answered, and the other half for as long as the test wants not.
    engine.behave(faults={marker_of(number): ["hang"] for number in range(LINES // 2, LINES)})
    batch_id = asker.create(request_lines(LINES))

    def read_done() -> list[int]:
        told = asker.ask_each(f"/openai/v1/batches/{batch_id}")
        return [each["request_counts"]["completed"] for each in told]

    Company.wait_until(lambda: read_done() == [LINES // 2] * 2)
    asker.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert asker.wait_for_end(batch_id)["status"] == "CANCELLED"
    assert read_done() == [LINES // 2] * 2


def test_tokens_enqueued_at_one_count_at_the_other(company: Company, asker: Asker, engine: NullEngine) -> None:
    # A batch of these lines is taken to need some 11,000.
    draft = {"name": "bounded", "limits": {"enqueued_tokens": 15_000}}
    made = asker.ask("POST", "/v1/organization/admin_api_keys", json=draft).json()
    headers = {"authorization": f"Bearer {made['value']}"}

    def is_known(url: str) -> bool:
        return httpx.get(f"{url}/v1/whoami", headers=headers, trust_env=False).status_code == 200

    for api in company.apis:
        hear(company, functools.partial(is_known, api.url))
    engine.behave(hold=True)
    form: dict[str, Any] = {"data": {"purpose": "batch-api"}, "files": {"file": ("a.jsonl", request_lines(LINES))}}
    body = {"endpoint": CHAT, "input_file_id": asker.ask("POST", "/v1/files", headers=headers, **form).json()["id"]}
    first = asker.ask("POST", "/v1/batches", status=201, json=body, headers=headers).json()["job"]["id"]
    for _ in company.apis:
        refused = asker.ask("POST", "/v1/batches", status=429, json=body, headers=headers)
        assert refused.json()["error"]["code"] == "token_limit_exceeded"
    engine.behave(hold=False)

    def has_ended(batch_id: str) -> bool:
        told = asker.ask("GET", f"/v1/batches/{batch_id}", headers=headers).json()
        return bool(told["status"] == "COMPLETED")

    Company.wait_until(lambda: has_ended(first))
    again = asker.ask("POST", "/v1/batches", status=201, json=body, headers=headers).json()["job"]["id"]
    Company.wait_until(lambda: has_ended(again))


def test_a_cancel_sent_to_one_stops_the_batch_for_both(asker: Asker, engine: NullEngine) -> None:
    engine.behave(hold=True)
    received = engine.stats()["received"]
    batch_id = asker.create(request_lines(LINES))
    engine.wait_for(lambda stats: stats["received"] > received, timeout_s=30)
    asker.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert asker.wait_for_end(batch_id)["status"] == "CANCELLED"
    assert engine.stats()["received"] < received + LINES


def test_a_batch_is_paused_at_one_and_resumed_at_the_other(asker: Asker, engine: NullEngine) -> None:
    engine.behave(hold=True)
    received = engine.stats()["received"]
    batch_id = asker.create(request_lines(LINES))
    engine.wait_for(lambda stats: stats["received"] > received, timeout_s=30)
    asker.ask("POST", f"/v1/batches/{batch_id}/pause")
    for _ in range(2):
        assert asker.retrieve(batch_id)["waiting"]["reason"] == "paused"
    # Before the engine goes on: all lines may be with it, and a batch that is through cannot be resumed.
    asker.ask("POST", f"/v1/batches/{batch_id}/resume")
    engine.behave(hold=False)
    assert asker.wait_for_end(batch_id)["status"] == "COMPLETED"


def test_failures_and_their_retry_go_to_both(asker: Asker, engine: NullEngine) -> None:
    engine.behave(faults={marker_of(number): ["400"] for number in (3, 5)})
    batch_id = asker.create(request_lines(LINES))
    ended = asker.wait_for_end(batch_id)
    assert ids_in(asker.read(ended["error_file_id"])) == ["request-3", "request-5"]
    first, second = asker.ask_each(f"/v1/batches/{batch_id}/failures")
    assert first == second
    assert sum(group["count"] for group in first["data"]) == 2
    headers = {"idempotency-key": "retry-once"}
    made = {
        asker.ask("POST", f"/v1/batches/{batch_id}/retry", status=201, headers=headers).json()["job"]["id"]
        for _ in range(2)
    }
    assert len(made) == 1
    again = asker.wait_for_end(made.pop())
    assert ids_in(asker.read(again["output_file_id"])) == ["request-3", "request-5"]


def test_a_download_broken_off_at_one_goes_on_at_the_other(asker: Asker) -> None:
    content = request_lines(LINES)
    file_id = asker.upload(content)
    whole = asker.ask("GET", f"/v1/files/{file_id}/content")
    got = b""
    while len(got) < len(content):
        headers = {"range": f"bytes={len(got)}-{len(got) + 999}", "if-range": whole.headers["etag"]}
        answer = asker.ask("GET", f"/v1/files/{file_id}/content", status=206, headers=headers)
        assert answer.headers["content-range"].endswith(f"/{len(content)}")
        got += answer.content
    assert got == content


def test_what_one_deletes_is_gone_at_the_other(asker: Asker) -> None:
    file_id = asker.upload(request_lines(1))
    asker.ask("DELETE", f"/v1/files/{file_id}")
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        for _ in range(2):
            asker.ask("GET", path, status=404)


def hear(company: Company, holds: Callable[[], bool]) -> None:
    """What one has changed holds at once for the other on one machine; between machines it has to hear of it."""
    if isinstance(company, Machines):
        company.wait_until(holds)
    assert holds()


def test_a_key_made_at_one_opens_both_until_one_revokes_it(company: Company, asker: Asker) -> None:
    made = asker.ask("POST", "/v1/organization/admin_api_keys", json={"name": "ada"}).json()
    headers = {"authorization": f"Bearer {made['value']}"}

    def answers(url: str, status: int) -> bool:
        return httpx.get(f"{url}/v1/whoami", headers=headers, trust_env=False).status_code == status

    for api in company.apis:
        hear(company, functools.partial(answers, api.url, 200))
    asker.ask("DELETE", f"/v1/organization/admin_api_keys/{made['id']}")
    for api in company.apis:
        hear(company, functools.partial(answers, api.url, 401))


def test_a_login_at_one_shows_pages_of_the_other_and_sends_their_forms_to_either(company: Company) -> None:
    first, second = (api.url for api in company.apis)
    with httpx.Client(timeout=30, trust_env=False) as browser:
        entered = browser.post(f"{first}/dashboard/login", data={"key": KEY})
        assert entered.status_code == 303
        cookies = {"cookie": f"backfill_session={entered.cookies['backfill_session']}"}
        browser.cookies.clear()
        assert browser.get(f"{second}/dashboard/keys").status_code == 303
        page = browser.get(f"{second}/dashboard/keys", headers=cookies)
        assert page.status_code == 200
        found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
        assert found is not None
        for url, name in ((first, "eve"), (second, "mallory")):
            form = {"token": found[1], "name": name, "scopes": "batch"}
            assert browser.post(f"{url}/dashboard/keys", data=form, headers=cookies).status_code == 200
            assert browser.post(f"{url}/dashboard/keys", data=form | {"token": ""}, headers=cookies).status_code == 403
        for url in (first, second):
            for name in ("eve", "mallory"):
                hear(company, lambda: name in browser.get(f"{url}/dashboard/keys", headers=cookies).text)  # noqa: B023
        left = browser.post(f"{first}/dashboard/logout", data={"token": found[1]}, headers=cookies)
        assert left.status_code == 303
