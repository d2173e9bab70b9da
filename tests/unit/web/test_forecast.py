"""What a server says of the time at which a batch will be done, from what its engines did and what waits."""

from datetime import datetime
from typing import Any

import pytest

from backfill.batch import Batch
from backfill.status import Forecast
from backfill.web.api.schemas import BatchCreated, OpenAIBatch
from tests.unit.web.conftest import Api, MakeApi

CHAT = "/v1/chat/completions"


@pytest.fixture
def late_api(make_api: MakeApi) -> Any:
    async def make(late_by_ms: int) -> Api:
        async def forecast(batch: Batch) -> Forecast:
            return Forecast(batch.deadline_at_ms + late_by_ms, is_late=late_by_ms > 0)

        return await make_api(services={"forecast": forecast})

    return make


async def test_a_batch_says_when_it_will_be_done(late_api: Any, content: bytes) -> None:
    api = await late_api(-60_000)
    job = await api.create_batch((await api.upload(content))["id"])
    deadline = datetime.fromisoformat(job["job_deadline"])
    found = datetime.fromisoformat(job["estimated_completion_at"])
    assert 60 <= (deadline - found).total_seconds() < 61
    shown = (await api.client.get(f"/openai/v1/batches/{job['id']}")).json()
    OpenAIBatch.model_validate(shown)
    assert shown["estimated_completion_at"] == int(found.timestamp())


async def test_a_create_warns_of_a_window_that_will_probably_not_do(late_api: Any, content: bytes) -> None:
    api = await late_api(3_600_000)
    body = {"endpoint": CHAT, "input_file_id": (await api.upload(content))["id"]}
    created = BatchCreated.model_validate((await api.client.post("/v1/batches", json=body)).json())
    assert created.warning is not None
    assert created.warning.startswith("The batch will probably not be done within its window")
    assert created.job.job_deadline[:19] in created.warning
    of_openai = OpenAIBatch.model_validate((await api.client.post("/openai/v1/batches", json=body)).json())
    assert of_openai.warning is not None
    fetched = (await api.client.get(f"/openai/v1/batches/{of_openai.id}")).json()
    assert "warning" not in fetched


async def test_nothing_is_said_where_nothing_is_known_or_the_window_will_do(
    api: Api, late_api: Any, content: bytes
) -> None:
    for one in (api, await late_api(-1)):
        body = {"endpoint": CHAT, "input_file_id": (await one.upload(content))["id"]}
        assert (await one.client.post("/v1/batches", json=body)).json()["warning"] is None
    assert "estimated_completion_at" not in (await api.create_batch((await api.upload(content))["id"]))
