"""The one rule that decides in which dialect a request is answered."""

from typing import Any

import pytest

from tests.unit.web.conftest import Api

CHAT = "/v1/chat/completions"
OPENAI_LINE = (
    b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions",'
    b'"body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}'
)


async def create(api: Api, root: str, purpose: str, line: bytes = OPENAI_LINE, **fields: object) -> dict[str, Any]:
    file = await api.upload(line, purpose=purpose)
    body = {"endpoint": CHAT, "input_file_id": file["id"], "completion_window": "24h"} | fields
    response = await api.client.post(f"{root}/batches", json=body)
    assert response.status_code in (200, 201), response.text
    made: dict[str, Any] = response.json()
    return made


@pytest.mark.parametrize(
    ("root", "purpose", "wrapped"),
    [
        ("/v1", "batch-api", True),
        ("/v1", "batch", False),
        ("/together/v1", "batch-api", True),
        ("/together/v1", "batch", True),
        ("/openai/v1", "batch", False),
        ("/openai/v1", "batch-api", False),
    ],
)
async def test_the_prefix_decides_and_else_the_files_purpose(api: Api, root: str, purpose: str, wrapped: bool) -> None:
    made = await create(api, root, purpose)
    assert ("job" in made) is wrapped
    assert (made["job"]["status"] == "VALIDATING") if wrapped else (made["status"] == "validating")


async def test_a_batch_can_be_read_through_the_others_prefix(api: Api) -> None:
    batch_id = (await create(api, "/v1", "batch"))["id"]
    shown = [
        (await api.client.get(f"{root}/batches/{batch_id}")).json() for root in ("/v1", "/openai/v1", "/together/v1")
    ]
    assert [each["status"] for each in shown] == ["validating", "validating", "VALIDATING"]
    assert isinstance(shown[1]["created_at"], int)
    assert isinstance(shown[2]["created_at"], str)


@pytest.mark.parametrize(
    ("path", "agent", "paged"),
    [
        ("/v1/batches", "Together/Python 3.1.1", False),
        ("/v1/batches", "AsyncTogether/Python 3.1.1", False),
        ("/v1/batches", "OpenAI/Python 3.54.0", True),
        ("/v1/batches", "AsyncOpenAI/Python 3.54.0", True),
        ("/v1/batches", "OpenAI/JS 7.57.0", True),
        ("/v1/batches", "curl/8", False),
        ("/v1/batches?limit=2", "curl/8", True),
        ("/openai/v1/batches", "Together/Python 3.1.1", True),
        ("/together/v1/batches", "OpenAI/Python 3.54.0", False),
    ],
)
async def test_a_list_has_the_shape_that_its_client_expects(api: Api, path: str, agent: str, paged: bool) -> None:
    await create(api, "/v1", "batch")
    listed = (await api.client.get(path, headers={"user-agent": agent})).json()
    assert isinstance(listed, dict if paged else list)


async def test_batches_page_to_their_end(api: Api) -> None:
    made = [(await create(api, "/v1", "batch"))["id"] for _ in range(5)]
    seen: list[str] = []
    while True:
        after = f"&after={seen[-1]}" if seen else ""
        page = (await api.client.get(f"/openai/v1/batches?limit=2{after}")).json()
        seen += [batch["id"] for batch in page["data"]]
        assert page["last_id"] == seen[-1]
        if not page["has_more"]:
            break
    assert sorted(seen) == sorted(made)
    assert len(seen) == 5


@pytest.mark.parametrize(("root", "allowed"), [("/openai/v1", "batch"), ("/together/v1", "batch-api")])
async def test_a_prefix_takes_its_own_purpose_only(api: Api, root: str, allowed: str) -> None:
    for purpose in ("batch", "batch-api"):
        response = await api.client.post(f"{root}/files", data={"purpose": purpose}, files={"file": ("a", OPENAI_LINE)})
        assert response.status_code == (200 if purpose == allowed else 400)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (OPENAI_LINE.replace(b'"POST"', b'"GET"'), "invalid_method"),
        (OPENAI_LINE.replace(b'"url":"/v1/chat/completions",', b""), "url_mismatch"),
        (OPENAI_LINE.replace(b'"url":"/v1/chat/completions"', b'"url":"/v1/embeddings"'), "url_mismatch"),
    ],
)
async def test_a_lines_own_target_counts_in_one_dialect_only(api: Api, line: bytes, code: str) -> None:
    strict = (await create(api, "/v1", "batch", line))["id"]
    lax = (await create(api, "/v1", "batch-api", line))["job"]["id"]
    await api.services.turns.admit_waiting()
    failed = (await api.client.get(f"/v1/batches/{strict}")).json()
    assert failed["status"] == "failed"
    assert [(each["code"], each["line"]) for each in failed["errors"]["data"]] == [(code, 1)]
    assert (await api.client.get(f"/v1/batches/{lax}")).json()["status"] == "IN_PROGRESS"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
    ],
)
async def test_what_openai_limits_is_limited(api: Api, fields: dict[str, object], param: str) -> None:
    file = await api.upload(OPENAI_LINE, purpose="batch")
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": file["id"]} | fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)


async def test_a_file_says_when_it_goes(api: Api) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = await api.upload(OPENAI_LINE, purpose="batch", **fields)
    assert file["expires_at"] == file["created_at"] + 3600
    wrong = fields | {"expires_after[seconds]": "5", "purpose": "batch"}
    response = await api.client.post("/v1/files", data=wrong, files={"file": ("a", OPENAI_LINE)})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "expires_after[seconds]")
