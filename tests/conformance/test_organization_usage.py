"""The admin calls of OpenAI's SDK, unmodified, read usage and costs."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from bench.null.process import NullEngine
from bench.service.money import PRICES, make_input, name_prices
from tests.conformance.conftest import API_KEY, wait_for
from tests.support.server_process import BackfillServer

MODELS = ("cheap", "dear", "odd", "unpriced")


@pytest.fixture(scope="module")
def priced(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    settings = {"server__api_keys": f'["{API_KEY}"]'} | name_prices()
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(priced: BackfillServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{priced.url}/v1", api_key=API_KEY, admin_api_key=API_KEY) as found:
        yield found


@pytest.fixture(scope="module")
def batch(client: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A batch of several models that has ended."""
    path = tmp_path_factory.mktemp("input") / "input.jsonl"
    target = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [json.loads(line) | target for line in make_input(40, random.Random(1)).content.splitlines()]
    path.write_text("\n".join(map(json.dumps, lines)))
    with path.open("rb") as source:
        file = client.files.create(file=source, purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return wait_for(lambda: client.batches.retrieve(made.id).model_dump(), "completed")


def ask_about() -> dict[str, Any]:
    now = int(time.time())
    return {"start_time": now - 86_400, "end_time": now + 86_400}


def results_of(page: Any) -> list[Any]:
    assert page.object == "page"
    return [result for bucket in page.data for result in bucket.results]


def test_a_batch_says_what_it_costs_to_an_sdk_that_does_not_know_of_it(batch: Any) -> None:
    assert {each["model"] for each in batch["cost"]["models"]} == set(MODELS)
    assert batch["cost"]["unpriced_models"] == ["unpriced"]


def test_usage_of_completions(client: OpenAI, batch: Any) -> None:
    usage = client.admin.organization.usage
    (total,) = results_of(usage.completions(**ask_about()))
    assert total.object == "organization.usage.completions.result"
    assert (total.input_tokens, total.output_tokens) == (
        batch["usage"]["input_tokens"],
        batch["usage"]["output_tokens"],
    )
    assert total.num_model_requests == 40 - batch["reused"]["requests"]
    by_model = results_of(usage.completions(**ask_about(), group_by=["model", "batch", "user_id"]))
    assert [result.model for result in by_model] == list(MODELS)
    assert all(result.batch and result.user_id for result in by_model)
    assert sum(result.input_tokens for result in by_model) == total.input_tokens
    (one,) = results_of(usage.completions(**ask_about(), models=["dear"], bucket_width="1h", limit=168))
    assert one.input_tokens == next(result for result in by_model if result.model == "dear").input_tokens
    assert results_of(usage.completions(**ask_about(), api_key_ids=["key-of-nobody"])) == []
    assert results_of(usage.completions(**ask_about(), batch=False)) == []


def test_pages_are_followed(client: OpenAI, batch: Any) -> None:
    usage = client.admin.organization.usage
    whole = usage.completions(**ask_about(), bucket_width="1h", limit=168)
    starts: list[int] = []
    asked = ask_about()
    while True:
        part = usage.completions(**asked, bucket_width="1h", limit=20)
        starts += [bucket.start_time for bucket in part.data]
        if not part.has_more:
            break
        asked["page"] = part.next_page
    assert starts == [bucket.start_time for bucket in whole.data]


def test_usage_of_embeddings_and_audio_is_there_and_empty(client: OpenAI, batch: Any) -> None:
    usage = client.admin.organization.usage
    assert results_of(usage.embeddings(**ask_about())) == []
    assert results_of(usage.audio_transcriptions(**ask_about())) == []


def test_costs(client: OpenAI, batch: Any) -> None:
    usage = client.admin.organization.usage
    (total,) = results_of(usage.costs(**ask_about()))
    assert (total.object, total.amount.currency) == ("organization.costs.result", "usd")
    assert total.amount.value == pytest.approx(float(batch["cost"]["paid"]), rel=1e-12)
    items = results_of(usage.costs(**ask_about(), group_by=["line_item"]))
    assert {item.line_item.split(", ")[0] for item in items} == set(MODELS)
    assert [item.line_item for item in items if item.amount.value is None] == [
        "unpriced, input_tokens",
        "unpriced, output_tokens",
    ]
    assert sum(item.amount.value or 0 for item in items) == pytest.approx(total.amount.value)
    dear = next(item for item in items if item.line_item == "dear, output_tokens")
    _, _, output, discount = PRICES["dear"]
    assert dear.amount.value == pytest.approx(dear.quantity * float(output) / 1e6 * (100 - discount) / 100)
    assert dear.quantity_unit == "tokens"


def test_what_is_not_kept_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="by the hour"):
        client.admin.organization.usage.completions(**ask_about(), bucket_width="1m")


def test_the_async_client_reads_the_same(priced: BackfillServer, client: OpenAI, batch: Any) -> None:
    async def ask() -> Any:
        async with AsyncOpenAI(base_url=f"{priced.url}/v1", api_key=API_KEY, admin_api_key=API_KEY) as found:
            return await found.admin.organization.usage.completions(**ask_about(), group_by=["model"])

    page = asyncio.run(ask())
    same = client.admin.organization.usage.completions(**ask_about(), group_by=["model"])
    assert [result.model_dump() for result in results_of(page)] == [result.model_dump() for result in results_of(same)]
