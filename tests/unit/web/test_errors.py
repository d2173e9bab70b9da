"""Trap 9: one shape for every failure, whatever raised it."""

from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from backfill import errors
from backfill.batch import Batch, Standing
from tests.unit.web.conftest import Api, MakeApi

EXPECTED = [
    (errors.InvalidInput, 400, "invalid_request"),
    (errors.InvalidConfig, 400, "invalid_config"),
    (errors.TooLarge, 413, "file_too_large"),
    (errors.Unauthorized, 401, "invalid_api_key"),
    (errors.Forbidden, 403, "insufficient_scope"),
    (errors.NotFound, 404, "not_found"),
    (errors.Conflict, 400, "conflict"),
    (errors.LimitReached, 429, "token_limit_exceeded"),
    (errors.EngineUnavailable, 503, "engine_unavailable"),
    (errors.ModelUnavailable, 503, "model_unavailable"),
    (errors.StoreUnavailable, 503, "store_unavailable"),
    (errors.StoreBusy, 503, "store_busy"),
    (errors.SchemaMismatch, 503, "schema_mismatch"),
    (errors.StoreFull, 507, "insufficient_storage"),
    (errors.StoreCorrupt, 500, "store_corrupt"),
    (errors.InputLost, 500, "input_lost"),
    (errors.RowsLost, 500, "rows_lost"),
    (errors.TurnLost, 500, "turn_lost"),
    (errors.BackfillError, 500, "internal_error"),
]


def check_shape(response: httpx.Response) -> dict[str, Any]:
    """What the strictest client wants of an error."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = response.json()["error"]
    assert response.json().keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str | None)
    assert isinstance(error["param"], str | None)
    return error


async def ask_models(make_api: MakeApi, error: Exception) -> httpx.Response:
    async def fail() -> list[Any]:
        raise error

    api = await make_api(services={"list_models": fail})
    return await api.client.get("/v1/models")


def test_no_error_is_forgotten() -> None:
    assert {kind.__name__ for kind, _, _ in EXPECTED} == set(errors.__all__)


@pytest.mark.parametrize(("kind", "status", "code"), EXPECTED)
async def test_every_error_of_ours_has_a_status(
    make_api: MakeApi, kind: type[errors.BackfillError], status: int, code: str
) -> None:
    response = await ask_models(make_api, kind("Cannot write /srv/backfill/x.", param="field"))
    error = check_shape(response)
    assert (response.status_code, error["code"], error["param"]) == (status, code, "field")
    # A message about this machine is not for clients; that there is no room is told in words for them.
    is_for_clients = status < 500 or status == 507
    assert ("/srv/backfill" in error["message"]) is is_for_clients
    assert (response.headers.get("x-should-retry") == "false") is is_for_clients


async def test_trap_10_a_busy_store_says_when_to_come_back(make_api: MakeApi) -> None:
    with capture_logs() as logs:
        response = await ask_models(make_api, errors.StoreBusy("Another process holds /srv/backfill."))
    assert response.status_code == 503
    assert [(entry["reason"], entry["request_id"]) for entry in logs] == [
        ("Another process holds /srv/backfill.", response.headers["x-request-id"])
    ]
    assert (b"retry-after", b"5") in response.headers.raw


async def test_what_nobody_foresaw_is_a_500_that_tells_the_log_and_not_the_client(make_api: MakeApi) -> None:
    with capture_logs() as logs:
        response = await ask_models(make_api, RuntimeError("the secret reason"))
    error = check_shape(response)
    assert (response.status_code, error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    (entry,) = logs
    assert "the secret reason" in entry["traceback"]
    assert (entry["path"], entry["request_id"]) == ("/v1/models", response.headers["x-request-id"])


async def test_a_failing_count_does_not_hide_behind_a_200(make_api: MakeApi, content: bytes) -> None:
    async def fail(batch: Batch) -> Standing:
        raise errors.StoreCorrupt("The journal is damaged.")

    api = await make_api(services={"measure": fail})
    file_id = (await api.upload(content))["id"]
    body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
    response = await api.client.post("/v1/batches", json=body)
    check_shape(response)
    assert response.status_code == 500


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/health/", 404, "unknown_url"),
        ("POST", "/v1/chat", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/files/../../etc/passwd", 404, "unknown_url"),
        ("GET", "/v1/files/..%2f..%2fetc%2fpasswd", 404, None),
        ("GET", "/v1/files/..", 404, None),
        ("GET", "/v1/files/file-0", 404, "not_found"),
        ("GET", "/v1/files/file-0%00", 404, "not_found"),
        ("GET", "/v1/files/%ff/content", 404, "not_found"),
        ("GET", f"/v1/files/{'x' * 5000}", 404, "not_found"),
        ("GET", "/v1/batches/0", 404, "not_found"),
        ("PUT", "/v1/files", 405, "method_not_allowed"),
        ("PATCH", "/v1/batches/1", 405, "method_not_allowed"),
        ("DELETE", "/v1/batches", 405, "method_not_allowed"),
        ("DELETE", "/v1/batches/1", 405, "method_not_allowed"),
        ("GET", "/v1/uploads/file-1", 405, "method_not_allowed"),
        ("PUT", "/v1/uploads/file-1", 403, "forbidden"),
    ],
)
async def test_routes_that_are_not_there(api: Api, method: str, path: str, status: int, code: str | None) -> None:
    response = await api.client.request(method, path)
    error = check_shape(response)
    assert response.status_code == status
    assert response.headers["x-should-retry"] == "false"
    if code:
        assert error["code"] == code
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/files", "GET, HEAD, POST"),
        ("/v1/files/file-0", "DELETE, GET, HEAD"),
        ("/v1/files/upload", "POST"),
        ("/v1/batches", "GET, HEAD, POST"),
        ("/health", "GET, HEAD"),
    ],
)
async def test_a_405_names_every_method_of_the_path(api: Api, path: str, allowed: str) -> None:
    assert (await api.client.options(path)).headers["allow"] == allowed


async def test_a_404_says_where_to_look(api: Api) -> None:
    message = (await api.client.get("/v1/chat")).json()["error"]["message"]
    assert message == "There is nothing at /v1/chat. GET /openapi.json lists what there is."


@pytest.mark.parametrize("host", ["[", "[::::]", "a/b?c#d", "x:99999", "\xff", "a@b", ""])
async def test_no_host_header_makes_an_error_of_ours(make_api: MakeApi, host: str) -> None:
    """A URL put together with it may be none, or another path."""
    api = await make_api(**{"server.api_keys": ["key"]})
    headers = {b"host": host.encode("latin-1"), b"authorization": b"Bearer key"}
    response = await api.client.get("/nothing?\xff", headers=headers)
    assert (response.status_code, "at /nothing." in check_shape(response)["message"]) == (404, True)
    form = {"purpose": "batch-api", "file_name": "a.jsonl"}
    assert (await api.client.post("/v1/files", data=form, headers=headers)).status_code < 500


async def test_bodiless_requests_with_a_json_content_type(api: Api, content: bytes) -> None:
    """Clients send preprocess, cancel and DELETE so."""
    headers = {"content-type": "application/json", "content-length": "0"}
    file_id = (await api.upload(content))["id"]
    batch_id = (await api.create_batch(file_id))["id"]
    preprocessed = await api.client.post(f"/v1/files/{file_id}/preprocess", headers=headers)
    cancelled = await api.client.post(f"/v1/batches/{batch_id}/cancel", headers=headers)
    other = (await api.upload(content))["id"]
    deleted = await api.client.request("DELETE", f"/v1/files/{other}", headers=headers)
    assert [response.status_code for response in (preprocessed, cancelled, deleted)] == [200, 200, 200]


async def test_every_answer_has_an_id_of_its_own(api: Api) -> None:
    answers = [await api.client.get(path) for path in ("/health", "/health", "/v1/files", "/nothing")]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 4
    assert all(one.startswith("req_") for one in ids)
