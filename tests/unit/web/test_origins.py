"""A server without keys: whoever reaches it may use it, but no web page of elsewhere."""

from typing import Any

import httpx
import pytest

from tests.unit.web.conftest import Api, MakeApi
from tests.unit.web.test_errors import check_shape

PUBLIC = "https://Batch.Example.org/inner/v1"
FORM = {"purpose": "batch-api", "file_name": "input.jsonl"}


async def ask(api: Api, headers: dict[str, str], method: str = "GET") -> httpx.Response:
    return await api.client.request(method, "/v1/files", headers=headers)


def check_refused(response: httpx.Response, code: str) -> None:
    error = check_shape(response)
    assert (response.status_code, error["type"], error["code"]) == (403, "permission_error", code)
    assert "server.public_url" in error["message"]
    assert "backfill keys create" in error["message"]
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8484",
        "localhost.:8484",
        "127.0.0.1:8484",
        "127.8.4.2",
        "[::1]:8484",
        "10.0.0.7:8484",
        "[fd00::7]",
        "batch.example.org",
        "batch.example.org:443",
        "gpu-box.lan:8484",
    ],
)
async def test_names_that_nobody_can_point_here_are_served(make_api: MakeApi, host: str) -> None:
    """An IP address is what it is, whatever a DNS server says."""
    api = await make_api(**{"server.public_url": PUBLIC, "server.host": "gpu-box.lan"})
    assert (await ask(api, {"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8484",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "1.2.3",
        "evil@localhost",
        "localhost:8484@evil.example",
        "localhost/",
        "[::1].evil.example",
        "[evil.example]",
        "[::1",
        ":8484",
        "localhost, evil.example",
        "batch.example.org",
    ],
)
async def test_a_rebound_name_is_refused(api: Api, host: str) -> None:
    for method, path in (("GET", "/v1/files"), ("GET", "/health"), ("PUT", "/v1/uploads/file-0"), ("GET", "/none")):
        response = await api.client.request(method, path, headers={"host": host})
        check_refused(response, "untrusted_host")
        assert repr(host) in response.json()["error"]["message"]


async def test_two_host_headers_are_one_too_many(api: Api) -> None:
    headers = [("host", "localhost"), ("host", "evil.example")]
    check_refused(await api.client.get("/v1/files", headers=headers), "untrusted_host")


async def test_a_server_on_all_addresses_does_not_take_any_name(make_api: MakeApi) -> None:
    api = await make_api(**{"server.host": "0.0.0.0"})
    assert (await ask(api, {"host": "192.168.1.20:8484"})).status_code == 200
    check_refused(await ask(api, {"host": "gpu-box:8484"}), "untrusted_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost"},
        {"origin": "https://127.0.0.1.evil.example:8484"},
        {"origin": "chrome-extension://abcdefgh"},
        {"origin": "file://"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
async def test_a_page_of_another_site_is_refused(api: Api, headers: dict[str, str]) -> None:
    own = {"host": "127.0.0.1:8484"}
    for method in ("GET", "POST", "OPTIONS"):
        check_refused(await ask(api, own | headers, method), "cross_site_request")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:8484"},
        {"origin": "http://127.0.0.1:8484", "sec-fetch-site": "same-origin"},
        {"origin": "https://batch.example.org", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-mode": "cors"},
    ],
)
async def test_pages_of_its_own_and_all_programs_are_served(make_api: MakeApi, headers: dict[str, str]) -> None:
    """The last one is Node's fetch."""
    api = await make_api(**{"server.public_url": PUBLIC})
    response = await api.client.post("/v1/files", data=FORM, headers={"host": "127.0.0.1:8484"} | headers)
    assert response.status_code == 302


async def test_a_link_that_is_followed_opens(api: Api) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await ask(api, link)).status_code == 200
    check_refused(await api.client.post("/v1/files", data=FORM, headers=link), "cross_site_request")


async def test_nothing_is_done_for_a_page_of_another_site(api: Api, content: bytes) -> None:
    """The two requests that a browser sends without asking first."""
    file_id = (await api.upload(content))["id"]
    page = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    form: Any = {"data": {"purpose": "batch-api"}, "files": {"file": ("evil.jsonl", content)}}
    check_refused(await api.client.post("/v1/files", headers=page, **form), "cross_site_request")
    create = f'{{"endpoint":"/v1/chat/completions","input_file_id":"{file_id}"}}'
    headers = page | {"content-type": "text/plain"}
    check_refused(await api.client.post("/v1/batches", content=create, headers=headers), "cross_site_request")
    check_refused(await api.client.delete(f"/v1/files/{file_id}", headers=page), "cross_site_request")
    assert [file["id"] for file in (await api.client.get("/v1/files")).json()["data"]] == [file_id]
    assert (await api.client.get("/v1/batches")).json() == []


async def test_with_keys_the_key_decides(make_api: MakeApi) -> None:
    api = await make_api(**{"server.api_keys": ["key"]})
    page = {"host": "evil.example", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert (await ask(api, page)).status_code == 401
    assert (await ask(api, page | {"authorization": "Bearer key"})).status_code == 200
