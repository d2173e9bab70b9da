"""Usage and costs over HTTP: exact sums of what batches used, in the shape of each route, for whoever may see them."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest

from backfill.api_key import Caller, Scope
from backfill.batch import HOUR_MS, Batch, Counts, Dialect, Price, State, Usage, UsageRow
from backfill.web.api.keys import CallerOf
from backfill.web.api.money_schemas import (
    AudioUsagePage,
    CompletionsUsagePage,
    CostsPage,
    EmbeddingsUsagePage,
    UsageSummary,
)
from backfill.web.api.schemas import OpenAIBatch, TogetherBatch
from tests.support.replicas import make_replica
from tests.unit.web.conftest import Api, MakeApi

ANONYMOUS = "0" * 24
DAY = datetime(2026, 3, 5, tzinfo=UTC)
HOUR = int(DAY.timestamp()) // 3600
PRICE = Price(600_000_000, 300_000_000, 2_400_000_000, discount_percent=50)
SPAN = {"start_time": int(DAY.timestamp()), "end_time": int(DAY.timestamp()) + 3 * 86400}


async def add_batch(api: Api, name: str, *rows: UsageRow, **members: Any) -> Batch:
    """A batch that has ended and used this."""
    last = max((row.hour for row in rows), default=HOUR)
    facts: dict[str, Any] = {
        "owner": ANONYMOUS,
        "endpoint": "/v1/chat/completions",
        "state": State.COMPLETED,
        "prices": {"a": PRICE},
        "counts": Counts(5, 4, 1, Usage(1, 2, 3)),
        "created_at_ms": HOUR * HOUR_MS,
        "ended_at_ms": (last + 1) * HOUR_MS - 1,
    }
    batch = Batch(
        id=name, input_file_id="f", input_size_bytes=1, deadline_at_ms=HOUR * HOUR_MS, usage=rows, **(facts | members)
    )
    return await api.services.metadata.add_batch(batch)


@pytest.fixture
async def used(api: Api) -> Api:
    """Two days, two models, two keys, two owners, and two endpoints."""
    await add_batch(
        api,
        "one",
        UsageRow("a", HOUR + 23, 3, 1, Usage(1000, 100, 200), 1, Usage(50, 5, 0)),
        UsageRow("a", HOUR + 24, 2, 0, Usage(300, 30, 0)),
        UsageRow("b", HOUR + 24, 1, 0, Usage(70, 7, 0)),
        key_id="key-1",
    )
    await add_batch(api, "two", UsageRow("a", HOUR + 25, 1, 0, Usage(40)), endpoint="/v1/embeddings")
    await add_batch(api, "other", UsageRow("a", HOUR + 25, 1, 0, Usage(7777)), owner="else")
    await add_batch(api, "before", UsageRow("a", HOUR - 1, 1, 0, Usage(99999)), created_at_ms=1)
    return api


async def ask(api: Api, path: str, **query: Any) -> Any:
    response = await api.client.get(path, params=query)
    assert response.status_code == 200, response.text
    return json.loads(response.text, parse_float=Decimal)


def admit(api: Api, caller: Caller) -> None:
    """Take every request for one of this caller's."""
    dependency = get_args(CallerOf)[1].dependency

    async def identify() -> Caller:
        return caller

    api.app.dependency_overrides[dependency] = identify


def dollars(prompt: int, cached: int, completion: int) -> Decimal:
    return ((prompt - cached) * Decimal("0.6") + cached * Decimal("0.3") + completion * Decimal("2.4")) / 10**6


async def test_usage_is_summed_by_whatever_is_asked_for(used: Api) -> None:
    admit(used, Caller(ANONYMOUS, scopes=frozenset({Scope.READ_ONLY})))
    totals = []
    for by in ("", "day", "hour", "model", "key", "batch", "owner", "day,model,key"):
        found = await ask(used, "/v1/usage", **({"by": by} if by else {}), **SPAN)
        UsageSummary.model_validate(found)
        totals.append(found["total"])
        money = [row["paid"] for row in found["data"] if row["paid"]]
        assert sum(map(Decimal, money)) == Decimal(found["total"]["paid"])
        assert sum(row["input_tokens"] for row in found["data"]) == found["total"]["input_tokens"]
    assert all(total == totals[0] for total in totals)
    total = totals[0]
    assert (total["requests"], total["answered"], total["failed"], total["reused_requests"]) == (8, 7, 1, 1)
    assert (total["input_tokens"], total["cached_tokens"], total["output_tokens"]) == (1410, 200, 137)
    listed = dollars(1000, 200, 100) + dollars(300, 0, 30) + dollars(40, 0, 0)
    assert Decimal(total["list"]) == listed
    assert Decimal(total["paid"]) == Decimal(total["discount"]) == listed / 2
    assert Decimal(total["saved"]) == listed / 2 + dollars(50, 0, 5)
    assert total["unpriced_models"] == ["b"]


async def test_days_models_and_keys_have_their_names(used: Api) -> None:
    admit(used, Caller(ANONYMOUS, scopes=frozenset({Scope.READ_ONLY})))
    days = await ask(used, "/v1/usage", by="day", **SPAN)
    assert [row["day"] for row in days["data"]] == ["2026-03-05", "2026-03-06"]
    hours = await ask(used, "/v1/usage", by="hour", **SPAN)
    assert [row["hour"] for row in hours["data"]] == ["2026-03-05T23:00Z", "2026-03-06T00:00Z", "2026-03-06T01:00Z"]
    models = await ask(used, "/v1/usage", by="model", **SPAN)
    assert [(row["model"], row["paid"] is None) for row in models["data"]] == [("a", False), ("b", True)]
    keys = await ask(used, "/v1/usage", by="key", **SPAN)
    assert [(row["key"], row["key_name"]) for row in keys["data"]] == [("key-1", None), (None, None)]
    one = await ask(used, "/v1/usage", by="batch", limit=1, batch_ids="one", models="b", **SPAN)
    assert [(row["batch"], row["input_tokens"]) for row in one["data"]] == [("one", 70)]
    cut = await ask(used, "/v1/usage", by="batch", limit=1, **SPAN)
    assert (len(cut["data"]), cut["has_more"], cut["total"]["input_tokens"]) == (1, True, 1410)


async def test_an_admin_sees_all_owners_and_nobody_else_does(used: Api) -> None:
    admit(used, Caller("else", scopes=frozenset({Scope.READ_ONLY})))
    assert (await ask(used, "/v1/usage", **SPAN))["total"]["input_tokens"] == 7777
    # Nor by asking for it.
    assert (await ask(used, "/v1/usage", owners=ANONYMOUS, **SPAN))["total"]["input_tokens"] == 0
    admit(used, Caller("boss", scopes=frozenset({Scope.ADMIN})))
    assert (await ask(used, "/v1/usage", **SPAN))["total"]["input_tokens"] == 1410 + 7777
    found = await ask(used, "/v1/usage", by="owner", owners="else", **SPAN)
    assert [(row["owner"], row["input_tokens"]) for row in found["data"]] == [("else", 7777)]
    page = await ask(used, "/v1/organization/usage/completions", **{"user_ids[]": "else"}, **SPAN)
    assert sum(result["input_tokens"] for bucket in page["data"] for result in bucket["results"]) == 7777
    both = {"user_ids[]": "else", "project_ids[]": ANONYMOUS}
    page = await ask(used, "/v1/organization/usage/completions", **both, **SPAN)
    assert [bucket["results"] for bucket in page["data"]] == [[], [], []]


async def test_usage_in_openais_shape(used: Api) -> None:
    admit(used, Caller(ANONYMOUS, scopes=frozenset({Scope.READ_ONLY})))
    page = await ask(used, "/v1/organization/usage/completions", **SPAN)
    CompletionsUsagePage.model_validate(page)
    assert [(bucket["start_time"] - SPAN["start_time"]) // 86400 for bucket in page["data"]] == [0, 1, 2]
    first, second, third = ([*bucket["results"]] for bucket in page["data"])
    assert (first[0]["input_tokens"], first[0]["input_cached_tokens"], first[0]["output_tokens"]) == (1000, 200, 100)
    # Of four requests one got the answer of another.
    assert first[0]["num_model_requests"] == 3
    assert (second[0]["input_tokens"], second[0]["model"], third) == (370, None, [])

    grouped = await ask(used, "/v1/organization/usage/completions", **{"group_by[]": ["model", "batch"]}, **SPAN)
    assert [(r["model"], r["batch"], r["input_tokens"]) for r in grouped["data"][1]["results"]] == [
        ("a", True, 300),
        ("b", True, 70),
    ]
    narrowed = await ask(used, "/v1/organization/usage/completions", models="b", **SPAN)
    assert [len(bucket["results"]) for bucket in narrowed["data"]] == [0, 1, 0]
    of_key = await ask(used, "/v1/organization/usage/completions", api_key_ids="key-1", group_by="api_key_id", **SPAN)
    assert {result["api_key_id"] for bucket in of_key["data"] for result in bucket["results"]} == {"key-1"}
    live = await ask(used, "/v1/organization/usage/completions", batch="false", **SPAN)
    assert [bucket["results"] for bucket in live["data"]] == [[], [], []]

    page = await ask(used, "/v1/organization/usage/embeddings", group_by="model", **SPAN)
    EmbeddingsUsagePage.model_validate(page)
    assert [result["input_tokens"] for bucket in page["data"] for result in bucket["results"]] == [40]
    heard = UsageRow("ear", HOUR + 25, 2, 0, Usage(audio_ms=60_500), 1, Usage(audio_ms=9_000))
    await add_batch(used, "heard", heard, endpoint="/v1/audio/translations")
    page = await ask(used, "/v1/organization/usage/audio_transcriptions", group_by="model", **SPAN)
    AudioUsagePage.model_validate(page)
    (found,) = (result for bucket in page["data"] for result in bucket["results"])
    assert (found["model"], found["seconds"], found["num_model_requests"]) == ("ear", 61, 1)


@pytest.mark.parametrize("width", ["1h", "1d"])
async def test_pages_follow_each_other_to_the_end(used: Api, width: str) -> None:
    admit(used, Caller(ANONYMOUS, scopes=frozenset({Scope.READ_ONLY})))
    query: dict[str, Any] = {"bucket_width": width, "limit": 2, **SPAN}
    buckets: list[dict[str, Any]] = []
    while True:
        page = await ask(used, "/v1/organization/usage/completions", **query)
        assert len(page["data"]) <= 2
        buckets += page["data"]
        if not page["has_more"]:
            assert page["next_page"] is None
            break
        query["page"] = page["next_page"]
    step = 3600 if width == "1h" else 86400
    assert [bucket["start_time"] for bucket in buckets] == list(range(SPAN["start_time"], SPAN["end_time"], step))
    assert sum(result["input_tokens"] for bucket in buckets for result in bucket["results"]) == 1370


async def test_costs_in_openais_shape_are_exact(used: Api) -> None:
    admit(used, Caller(ANONYMOUS, scopes=frozenset({Scope.READ_ONLY})))
    page = await ask(used, "/v1/organization/costs", **SPAN)
    first, second, third = (bucket["results"] for bucket in page["data"])
    assert first[0]["amount"] == {"value": dollars(1000, 200, 100) / 2, "currency": "usd"}
    assert second[0]["amount"]["value"] == (dollars(300, 0, 30) + dollars(40, 0, 0)) / 2
    assert (second[0]["unpriced_models"], third) == (["b"], [])

    page = await ask(used, "/v1/organization/costs", group_by="line_item", **SPAN)
    told = [[(r["line_item"], r["amount"]["value"], r["quantity"]) for r in day["results"]] for day in page["data"]]
    assert told[0] == [
        ("a, cached_input_tokens", Decimal("0.00003"), 200),
        ("a, input_tokens", Decimal("0.00024"), 800),
        ("a, output_tokens", Decimal("0.00012"), 100),
    ]
    # What has no price is there, without an amount.
    assert told[1][-2:] == [("b, input_tokens", None, 70), ("b, output_tokens", None, 7)]
    page = await ask(used, "/v1/organization/costs", **{"line_items[]": "a, output_tokens"}, **SPAN)
    assert page["data"][0]["results"][0]["amount"]["value"] == Decimal("0.00012")
    CostsPage.model_validate(json.loads((await used.client.get("/v1/organization/costs", params=SPAN)).text))


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("usage/completions", {}, "start_time"),
        ("usage/completions", {"start_time": "soon"}, "start_time"),
        ("usage/completions", {"start_time": 5, "end_time": 5}, "end_time"),
        ("usage/completions", {"start_time": 5, "bucket_width": "1m"}, "bucket_width"),
        ("usage/completions", {"start_time": 5, "bucket_width": "2d"}, "bucket_width"),
        ("usage/completions", {"start_time": 5, "limit": 32}, "limit"),
        ("usage/completions", {"start_time": 5, "group_by": "colour"}, "group_by.0"),
        ("usage/completions", {"start_time": 5, "group_by": ""}, "group_by.0"),
        ("usage/completions", {"start_time": 5, "models": ""}, "models.0"),
        ("usage/completions", {"start_time": 5, "api_key_ids[]": ""}, "api_key_ids.0"),
        ("usage/completions", {"start_time": 90000, "page": "page_1"}, "page"),
        ("usage/completions", {"start_time": 5, "page": "2"}, "page"),
        ("usage/embeddings", {"start_time": -1}, "start_time"),
        ("costs", {"start_time": 5, "bucket_width": "1h"}, "bucket_width"),
        ("costs", {"start_time": 5, "limit": 181}, "limit"),
    ],
)
async def test_what_cannot_be_asked_is_told(api: Api, path: str, query: dict[str, Any], param: str) -> None:
    response = await api.client.get(f"/v1/organization/{path}", params=query)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


async def test_a_batch_says_what_it_costs_in_both_dialects(api: Api) -> None:
    rows = (
        UsageRow("a", HOUR, 3, 1, Usage(1000, 100, 200), 1, Usage(50, 5, 0)),
        UsageRow("b", HOUR, 1, 0, Usage(7, 7)),
    )
    for dialect in Dialect:
        await add_batch(api, dialect, *rows, dialect=dialect)
    together = await ask(api, f"/v1/batches/{Dialect.TOGETHER}")
    openai = await ask(api, f"/v1/batches/{Dialect.OPENAI}")
    OpenAIBatch.model_validate(openai)
    assert TogetherBatch.model_validate(json.loads(json.dumps(together, default=float))).cost
    cost = openai["cost"]
    assert together["cost"] == cost
    assert (cost["currency"], cost["unpriced_models"]) == ("usd", ["b"])
    assert Decimal(cost["list"]) == dollars(1000, 200, 100)
    assert Decimal(cost["paid"]) == Decimal(cost["discount"]) == dollars(1000, 200, 100) / 2
    assert [(each["model"], each["list"], each["input_tokens"]) for each in cost["models"]] == [
        ("a", cost["list"], 1000),
        ("b", None, 7),
    ]


async def test_a_batch_without_prices_has_no_cost_of_zero(api: Api) -> None:
    await add_batch(api, "one", UsageRow("a", HOUR, 1, 0, Usage(1, 1)), prices={})
    cost = (await ask(api, "/v1/batches/one"))["cost"]
    assert [cost[name] for name in ("list", "discount", "paid", "saved")] == [None] * 4
    await add_batch(api, "two", UsageRow("a", HOUR, 1, 0, Usage(1, 1)), prices={"a": Price(0, None, 0)})
    cost = (await ask(api, "/v1/batches/two"))["cost"]
    assert [cost[name] for name in ("list", "discount", "paid", "saved")] == ["0.00"] * 4


async def test_a_batch_of_before_there_was_usage_is_told_by_its_counts(api: Api) -> None:
    await add_batch(api, "old", model_id="a", counts=Counts(5, 4, 1, Usage(1000, 100, 200)))
    cost = (await ask(api, "/v1/batches/old"))["cost"]
    assert Decimal(cost["list"]) == dollars(1000, 200, 100)
    found = await ask(api, "/v1/usage", by="day,model", **SPAN)
    assert [(row["day"], row["model"], row["input_tokens"]) for row in found["data"]] == [("2026-03-05", "a", 1000)]


async def test_savings_can_be_left_out(make_api: MakeApi) -> None:
    api = await make_api(**{"money.show_savings": False, "money.currency": "EUR"})
    await add_batch(api, "one", UsageRow("a", HOUR, 1, 0, Usage(1000, 100)))
    cost = (await ask(api, "/v1/batches/one"))["cost"]
    assert {"list", "discount", "saved"} & (set(cost) | set(cost["models"][0])) == set()
    assert (cost["currency"], cost["paid"]) == ("eur", "0.00042")
    total = (await ask(api, "/v1/usage", **SPAN))["total"]
    assert (total["paid"], "list" in total) == ("0.00042", False)


async def test_many_batches_are_read_some_at_a_time(api: Api) -> None:
    # More than are read at once, of which many ended in the same millisecond.
    for number in range(1203):
        await add_batch(api, f"batch-{number:04d}", UsageRow("a", HOUR + number // 800, 1, 0, Usage(number)))
    found = await ask(api, "/v1/usage", by="hour", **SPAN)
    assert found["total"]["requests"] == 1203
    assert found["total"]["input_tokens"] == 1203 * 1202 // 2


async def test_an_engine_says_what_its_hardware_cost(make_api: MakeApi) -> None:
    gpu = {"url": "http://gpu", "models": ["a"], "cost_per_hour": 2}
    replica = make_replica(
        "gpu", prompt_tokens=1_500_000, completion_tokens=500_000, cached_tokens=0, busy_ms=1_800_000
    )
    api = await make_api(
        services={"list_replicas": lambda: (replica, make_replica("other"))},
        engines={"gpu": gpu, "other": {"url": "http://other"}},
    )
    first, second = (await ask(api, "/v1/engines"))["data"]
    assert (first["hardware_cost_per_million"], first["list_price_per_million"]) == ("0.500000", None)
    assert second["hardware_cost_per_million"] is None
