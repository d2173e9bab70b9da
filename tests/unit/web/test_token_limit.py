"""What a client is told whose batch has no room."""

from dataclasses import replace

import pytest

from backfill.accounts import DEFAULT_SCOPES, KeyDraft, Quota, QuotaSources, TokenGuess
from backfill.api_key import KeyLimits
from backfill.batch import Batch, Standing
from backfill.store import Reservations
from backfill.turns import Turns
from tests.unit.web.conftest import Api, MakeApi

LINE = b'{"custom_id":"%d","body":{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}}\n'
# Each takes 100 tokens for the answer and a few for the prompt.
THREE = b"".join(LINE % number for number in range(3))
TEN = b"".join(LINE % number for number in range(10))
LIMIT = 600
REQUEST = {"endpoint": "/v1/chat/completions"}


async def _measure(batch: Batch) -> Standing:
    return Standing(batch.counts)


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    return await limit(await make_api())


async def limit(api: Api) -> Api:
    """The same, with room for so many tokens."""
    services = api.services

    async def find_key_limit(key_id: str) -> int | None:
        return (await services.keys.get(key_id)).limits.enqueued_tokens

    quota = Quota(services.metadata, LIMIT, QuotaSources(_measure, find_key_limit, str))
    await quota.begin()
    guess = TokenGuess(Reservations(services.metadata.database))
    turns = Turns(services.metadata, services.config.limits, appraisals=[guess.reserve], add_batch=quota.add_batch)
    api.services = api.app.state.services = replace(services, turns=turns)
    return api


async def test_over_the_limit_is_a_429_that_says_when_to_come_again(api: Api) -> None:
    file_id = (await api.upload(THREE))["id"]
    await api.create_batch(file_id)
    response = await api.client.post("/v1/batches", json=REQUEST | {"input_file_id": file_id})
    assert response.status_code == 429
    error = response.json()["error"]
    assert error["code"] == "token_limit_exceeded"
    assert error["param"] == "input_file_id"
    assert f"{LIMIT:,} may be" in error["message"]
    assert "limits.enqueued_tokens" in error["message"]
    # The batch before it is due in a day, and clients are not to ask again within seconds.
    assert 86_000 < int(response.headers["retry-after"]) <= 86_401
    assert response.headers["x-should-retry"] == "false"
    assert len((await api.client.get("/v1/batches")).json()) == 1


async def test_what_never_fits_is_a_400(api: Api) -> None:
    response = await api.client.post("/v1/batches", json=REQUEST | {"input_file_id": (await api.upload(TEN))["id"]})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "token_limit_exceeded"
    assert "never fit" in response.json()["error"]["message"]


async def test_a_batch_that_was_made_is_given_again(api: Api) -> None:
    body = REQUEST | {"input_file_id": (await api.upload(THREE))["id"]}
    headers = {"idempotency-key": "mine"}
    first, again = [await api.client.post("/v1/batches", json=body, headers=headers) for _ in range(2)]
    assert first.status_code == again.status_code == 201
    assert first.json()["job"]["id"] == again.json()["job"]["id"]


async def test_a_key_may_have_less_room(make_api: MakeApi) -> None:
    api = await limit(await make_api())
    draft = KeyDraft(name="small", owner="team", scopes=DEFAULT_SCOPES, limits=KeyLimits(enqueued_tokens=100))
    _, secret = await api.services.keys.create(draft)
    api.client.headers["authorization"] = f"Bearer {secret}"
    response = await api.client.post("/v1/batches", json=REQUEST | {"input_file_id": (await api.upload(THREE))["id"]})
    assert response.status_code == 400
    assert "the limit of your key" in response.json()["error"]["message"]
