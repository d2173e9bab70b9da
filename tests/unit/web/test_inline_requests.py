"""Requests in the create call: a file of the owner's is made of them, once, and it goes when it is over."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from backfill.batch import Dialect
from backfill.index import Survey
from tests.unit.web.conftest import Api, MakeApi
from tests.unit.web.test_errors import check_shape

CHAT = "/v1/chat/completions"
DAY_MS = 86_400_000


def request(number: int, **members: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"hi\u2028 {number}"}]}
    return {"custom_id": f"request-{number}", "body": body} | members


async def create(api: Api, requests: Any, path: str = "/v1/batches", **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {"endpoint": CHAT, "requests": requests} | more
    return await api.client.post(path, json=body, headers=headers)


async def count(api: Api) -> tuple[int, int]:
    """Batches and files that there are."""
    batches = (await api.client.get("/together/v1/batches")).json()
    return len(batches), len((await api.client.get("/v1/files")).json()["data"])


async def test_they_become_a_file_of_the_owner_s(api: Api) -> None:
    requests = [request(0), request(1, extra=1.50)]
    job = (await create(api, requests)).json()["job"]
    shown = (await api.client.get(f"/v1/files/{job['input_file_id']}")).json()
    assert (shown["purpose"], shown["filename"], shown["LineCount"]) == ("batch-api", "requests.jsonl", 2)
    lines = (await api.client.get(f"/v1/files/{job['input_file_id']}/content")).content.split(b"\n")
    assert [json.loads(line) for line in lines if line] == requests
    assert await count(api) == (1, 1)
    row = await api.services.metadata.get_batch(job["id"])
    file = await api.services.metadata.get_file(job["input_file_id"])
    assert file.expires_at_ms is not None
    assert abs(file.expires_at_ms - row.deadline_at_ms - 30 * DAY_MS) < 5000


async def test_their_bytes_are_copied_but_for_line_ends(api: Api) -> None:
    body = (
        b'{"endpoint":"%b","requests":[\n {"custom_id":"a",\r\n"body" : {"n":1.00e0,"s":"\\u00e9\\n"}} ]}'
        % CHAT.encode()
    )
    job = (await api.client.post("/v1/batches", content=body)).json()["job"]
    content = (await api.client.get(f"/v1/files/{job['input_file_id']}/content")).content
    assert content == b'{"custom_id":"a",  "body" : {"n":1.00e0,"s":"\\u00e9\\n"}}\n'


async def test_openai_s_dialect_needs_no_target_of_each(api: Api) -> None:
    named = {"method": "POST", "url": "/v1/embeddings"}
    requests = [request(0), request(1) | named, {}, request(2, url=CHAT)]
    made = await create(api, requests, "/openai/v1/batches")
    assert made.status_code == 200, made.text
    file_id = made.json()["input_file_id"]
    shown = (await api.client.get(f"/openai/v1/files/{file_id}")).json()
    assert shown["purpose"] == "batch"
    lines = (await api.client.get(f"/v1/files/{file_id}/content")).content.splitlines()
    assert json.loads(lines[0]) == request(0) | {"method": "POST", "url": CHAT}
    assert [json.loads(line) for line in lines[1:]] == [
        request(1) | named,
        {"method": "POST", "url": CHAT},
        request(2, url=CHAT),
    ]


@pytest.mark.parametrize(
    ("path", "agent", "dialect"),
    [
        ("/v1/batches", "curl/8", Dialect.TOGETHER),
        ("/v1/batches", "OpenAI/Python 2", Dialect.OPENAI),
        ("/v1/batches", "Together/v3", Dialect.TOGETHER),
        ("/together/v1/batches", "OpenAI/Python 2", Dialect.TOGETHER),
        ("/openai/v1/batches", "curl/8", Dialect.OPENAI),
    ],
)
async def test_the_client_decides_about_the_dialect(api: Api, path: str, agent: str, dialect: Dialect) -> None:
    made = (await create(api, [request(0)], path, headers={"user-agent": agent})).json()
    row = await api.services.metadata.get_batch(made["job"]["id"] if "job" in made else made["id"])
    assert row.dialect is dialect
    file = await api.services.metadata.get_file(row.input_file_id)
    assert file.purpose == ("batch" if dialect is Dialect.OPENAI else "batch-api")


async def test_results_that_expire_take_their_input_along(api: Api) -> None:
    kept = {"anchor": "created_at", "seconds": 3600}
    job = (await create(api, [request(0)], output_expires_after=kept, completion_window="2h")).json()["job"]
    file = await api.services.metadata.get_file(job["input_file_id"])
    assert file.expires_at_ms == file.created_at_ms + 3 * 3_600_000


@pytest.mark.parametrize(
    ("members", "param", "said"),
    [
        ({}, "input_file_id", "neither"),
        ({"requests": None}, "input_file_id", "neither"),
        ({"requests": [request(0)], "input_file_id": "file-1"}, "input_file_id", "both"),
        ({"requests": []}, "requests", "empty"),
        ({"requests": {}}, "requests", "array"),
        ({"requests": "x"}, "requests", "array"),
        ({"requests": [request(0), "x"]}, "requests[1]", "custom_id and body"),
        ({"requests": [[]]}, "requests[0]", "custom_id and body"),
        ({"requests": [request(0)], "endpoint": "/v1/odd"}, "endpoint", CHAT),
        ({"requests": [request(0)], "completion_window": "soon"}, "completion_window", "72h"),
        ({"requests": [request(0)], "metadata": {"on_invalid_lines": "x"}}, "metadata.on_invalid_lines", "error_file"),
    ],
)
async def test_what_will_not_do_is_said_and_leaves_nothing(
    api: Api, members: dict[str, Any], param: str, said: str
) -> None:
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT} | members)
    error = check_shape(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert said in error["message"]
    assert await count(api) == (0, 0)
    assert api.list_blobs() == []


async def test_what_is_no_json_is_said(api: Api) -> None:
    body = b'{"endpoint":"%b","requests":[{"custom_id":"a","body":{"n":NaN}}]}' % CHAT.encode()
    response = await api.client.post("/v1/batches", content=body)
    assert (response.status_code, "not valid JSON" in check_shape(response)["message"]) == (400, True)


async def test_lines_are_checked_as_those_of_a_file_are(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.lines": 2})
    bad, many = [request(0), request(0)], [request(number) for number in range(3)]
    for requests, code in ((bad, "duplicate_custom_id"), (many, "too_many_requests"), ([{}], "missing_custom_id")):
        batch_id = (await create(api, requests)).json()["job"]["id"]
        await api.services.turns.admit_waiting()
        row = await api.services.metadata.get_batch(batch_id)
        assert (row.state, [problem.code for problem in row.problems]) == ("failed", [code])


async def test_a_body_that_is_too_large_is_a_413_that_names_the_setting(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.inline_size_bytes": 100_000})
    assert (await create(api, [request(number) for number in range(700)])).status_code == 201
    for requests in ([request(number) for number in range(2000)], [request(0, x="y" * 200_000)]):
        response = await create(api, requests)
        assert response.status_code == 413
        assert "limits.inline_size_bytes" in check_shape(response)["message"]
    large = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": "f", "x": "y" * 70_000})
    assert (large.status_code, check_shape(large)["code"]) == (413, "request_too_large")
    assert await count(api) == (1, 1)
    small = await make_api(**{"limits.inline_size_bytes": 100})
    response = await create(small, [request(0)])
    assert (response.status_code, "limits.inline_size_bytes" in check_shape(response)["message"]) == (413, True)


async def test_the_file_limit_holds_too(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.file_size_bytes": 1000})
    response = await create(api, [request(number) for number in range(20)])
    assert (response.status_code, "limits.file_size_bytes" in check_shape(response)["message"]) == (413, True)
    assert await count(api) == (0, 0)


@pytest.mark.parametrize("headers", [{"idempotency-key": "k"}, {"x-stainless-retry-count": "1"}], ids=str)
async def test_the_same_call_makes_one_batch_and_one_file(api: Api, headers: dict[str, str]) -> None:
    answers = await asyncio.gather(*(create(api, [request(0)], headers=headers) for _ in range(10)))
    answers.append(await create(api, [request(0)], headers=headers))
    assert len({answer.json()["job"]["id"] for answer in answers}) == 1
    assert await count(api) == (1, 1)


async def test_what_means_the_same_is_the_same(api: Api) -> None:
    headers = {"idempotency-key": "k"}
    one = json.dumps({"endpoint": CHAT, "requests": [request(0)]})
    other = json.dumps({"requests": [dict(reversed(request(0).items()))], "endpoint": CHAT}, indent=3)
    made = [(await api.client.post("/v1/batches", content=body, headers=headers)).json() for body in (one, other)]
    assert made[0]["job"]["id"] == made[1]["job"]["id"]
    differs = await create(api, [request(1)], headers=headers)
    assert check_shape(differs)["code"] == "idempotency_key_reuse"
    assert await count(api) == (1, 1)


async def test_what_is_refused_leaves_no_file(make_api: MakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await make_api()

    async def refuse(_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(api.services.turns, "create", refuse)
    assert (await create(api, [request(0)])).status_code == 500
    assert await count(api) == (0, 0)
    assert api.list_blobs() == []


async def test_a_survey_is_there_at_once(api: Api) -> None:
    job = (await create(api, [request(0), request(1)])).json()["job"]
    file = await api.services.metadata.get_file(job["input_file_id"])
    assert msgspec.json.decode(file.survey, type=Survey).models == ("m",)
    assert job["model_id"] == "m"
