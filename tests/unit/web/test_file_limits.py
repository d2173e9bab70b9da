"""What one file may hold, by the key that sends it, whichever way its bytes come."""

import httpx
import pytest

from backfill.accounts import DEFAULT_SCOPES, KeyDraft
from backfill.api_key import KeyLimits
from backfill.index import Survey
from backfill.store import DataSize
from tests.unit.web.conftest import Api, MakeApi

LINE = b'{"custom_id":"%d","body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}\n'
SMALL = b"".join(LINE % number for number in range(3))
LARGE = SMALL + LINE % 3
LIMITS = KeyLimits(file_size_bytes=len(SMALL))


@pytest.fixture
async def limited(make_api: MakeApi) -> Api:
    """A client whose key may send less than others."""
    return await with_key(await make_api(), LIMITS)


async def with_key(api: Api, limits: KeyLimits) -> Api:
    draft = KeyDraft(name="small", owner="team", scopes=DEFAULT_SCOPES, limits=limits)
    _, secret = await api.services.keys.create(draft)
    api.client.headers["authorization"] = f"Bearer {secret}"
    return api


async def post(api: Api, content: bytes) -> httpx.Response:
    return await api.client.post("/v1/files", data={"purpose": "batch-api"}, files={"file": ("a.jsonl", content)})


def refused(response: httpx.Response) -> bool:
    message = response.json()["error"]["message"]
    return response.status_code == 413 and "limit of your key" in message


async def test_a_form_is_held_to_the_limit_of_its_key(limited: Api) -> None:
    assert (await post(limited, SMALL)).status_code == 200
    assert refused(await post(limited, LARGE))


async def test_so_are_bytes_that_come_without_a_key(limited: Api) -> None:
    response = await limited.reserve()
    url = response.headers["location"]
    assert refused(await limited.client.put(url, content=LARGE, headers={"authorization": ""}))
    assert (await limited.client.put(url, content=SMALL, headers={"authorization": ""})).status_code == 200


async def test_the_limit_in_an_address_cannot_be_changed(limited: Api) -> None:
    url = (await limited.reserve()).headers["location"]
    for other in (url.partition("&limits=")[0], url + "9"):
        assert (await limited.client.put(other, content=SMALL)).status_code == 403


async def test_so_are_parts(limited: Api) -> None:
    facts = {"filename": "a.jsonl", "purpose": "batch", "mime_type": "application/jsonl"}
    assert refused(await limited.client.post("/v1/uploads", json=facts | {"bytes": len(LARGE)}))
    assert (await limited.client.post("/v1/uploads", json=facts | {"bytes": len(SMALL)})).status_code == 200


async def test_a_key_may_allow_more_than_the_server(make_api: MakeApi) -> None:
    limits: dict[str, object] = {"limits.lines": 1, "limits.file_size_bytes": 10}
    api = await with_key(await make_api(**limits), KeyLimits(lines=3, file_size_bytes=10_000))
    for content, fits in ((SMALL, True), (LARGE, False)):
        file_id = (await post(api, content)).json()["id"]
        row = await api.services.metadata.get_file(file_id)
        survey = httpx.Response(200, content=row.survey).json()
        codes = [problem["code"] for problem in survey.get("problems", [])]
        assert codes == ([] if fits else ["too_many_requests"])


async def test_a_full_data_directory_is_a_507(make_api: MakeApi) -> None:
    api = await make_api()
    data_size = DataSize(api.services.config.data_dir, limit_bytes=1)
    data_size.measure()
    api.services.intake.data_size = data_size
    for response in (
        await post(api, SMALL),
        await api.client.post("/v1/files", data={"purpose": "batch-api", "file_name": "a", "file_type": "jsonl"}),
    ):
        assert response.status_code == 507
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "insufficient_storage")
        assert "retention.data_size_bytes" in error["message"]
        assert str(api.services.config.data_dir) not in error["message"]
        assert response.headers["x-should-retry"] == "false"


def test_a_survey_without_needs_is_still_read() -> None:
    assert Survey().needs == {}


async def test_a_client_may_ask_what_a_file_may_hold(limited: Api) -> None:
    told = (await limited.client.get("/v1/whoami")).json()["limits"]
    assert told == {"lines": 50_000, "file_size_bytes": len(SMALL), "custom_id_length": 64}


async def test_without_limits_of_its_key_it_is_told_those_of_the_server(api: Api) -> None:
    told = (await api.client.get("/v1/whoami")).json()["limits"]
    assert told == {"lines": 50_000, "file_size_bytes": 104_857_600, "custom_id_length": 64}
