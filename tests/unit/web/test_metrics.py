"""`GET /metrics` and `GET /v1/engines`, read as a scraper and a client would."""

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import httpx
import msgspec
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from backfill import __version__
from backfill.accounts import Quota, QuotaSources, UsageTotals
from backfill.batch import Batch, Price, Reservation, State, Usage, UsageRow
from backfill.intake import describe_data_size
from backfill.status import Bottleneck, ReplicaState, ReplicaStatus
from backfill.store import Metadata, UsageRecords
from backfill.web.api.engine_schemas import EnginePage
from tests.support.replicas import make_replica
from tests.unit.web.conftest import Api, MakeApi

BUSY = make_replica("local", live_in_flight=2, batch_limit=6, waiting_in_engine=0, kv_cache_use=0.25)
AWAY = make_replica(
    'gpu "1"',
    state=ReplicaState.PAUSED,
    bottleneck=Bottleneck.UPSTREAM_LIMIT,
    in_flight=0,
    trouble="no connection",
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def serve(make_api: MakeApi, *replicas: ReplicaStatus, **settings: object) -> Api:
    return await make_api(services={"list_replicas": lambda: replicas}, **settings)


def read(response: httpx.Response) -> Samples:
    assert response.status_code == 200, response.text
    samples = [one for family in text_string_to_metric_families(response.text) for one in family.samples]
    found = {(one.name, frozenset(one.labels.items())): one.value for one in samples}
    assert len(found) == len(samples), "a series is there twice"
    return found


def pick(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def pick_one(samples: Samples, name: str, label: str, replica: str) -> str:
    """The word for which the series is 1; all others are 0."""
    series = {dict(labels)[label]: value for (found, labels), value in samples.items() if found == name}
    values = {word: pick(samples, name, **{label: word}, replica=replica) for word in series}
    (holding,) = [word for word, value in values.items() if value == 1]
    assert {value for word, value in values.items() if word != holding} == {0}
    return holding


async def test_what_is_known_of_a_replica_is_told(make_api: MakeApi) -> None:
    api = await serve(make_api, BUSY, AWAY)
    response = await api.client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = read(response)
    gauges = {
        "backfill_replica_in_flight": 8,
        "backfill_replica_concurrency_limit": 8,
        "backfill_replica_concurrency_ceiling": 64,
        "backfill_replica_waiting": 0,
        "backfill_replica_live_in_flight": 2,
        "backfill_replica_batch_limit": 6,
        "backfill_replica_kv_cache_use": 0.25,
    }
    assert {name: pick(samples, name, replica="local") for name in gauges} == gauges
    outcomes = {"answered": 100, "lost": 2, "rate_limited": 3, "reused": 40}
    kinds = {"prompt": 6000, "completion": 4800, "cached": 1000}
    assert {
        outcome: pick(samples, "backfill_requests_total", replica="local", outcome=outcome) for outcome in outcomes
    } == outcomes
    assert {kind: pick(samples, "backfill_tokens_total", replica="local", kind=kind) for kind in kinds} == kinds
    assert pick(samples, "backfill_replica_in_flight", replica='gpu "1"') == 0
    assert pick(samples, "backfill_build_info", version=__version__) == 1


async def test_what_an_engine_does_not_tell_is_no_zero(make_api: MakeApi) -> None:
    samples = read(await (await serve(make_api, BUSY, AWAY)).client.get("/metrics"))
    named = {name: {dict(labels).get("replica") for found, labels in samples if found == name} for name, _ in samples}
    assert named["backfill_replica_waiting"] == named["backfill_replica_kv_cache_use"] == {"local"}


async def test_one_state_and_one_bottleneck_hold(make_api: MakeApi) -> None:
    samples = read(await (await serve(make_api, BUSY, AWAY)).client.get("/metrics"))
    for replica in (BUSY, AWAY):
        assert pick_one(samples, "backfill_replica_state", "state", replica.name) == replica.state
        assert pick_one(samples, "backfill_replica_bottleneck", "bottleneck", replica.name) == replica.bottleneck
    for name, words in (("bottleneck", Bottleneck), ("state", ReplicaState)):
        told = {dict(labels)[name] for found, labels in samples if found == f"backfill_replica_{name}"}
        assert told == {word.value for word in words}


async def test_batches_are_counted_by_state(make_api: MakeApi, content: bytes) -> None:
    api = await serve(make_api)
    file = await api.upload(content)
    first, *_ = [await api.create_batch(file["id"]) for _ in range(3)]
    await api.client.post(f"/v1/batches/{first['id']}/cancel")
    samples = read(await api.client.get("/metrics"))
    found = {state: pick(samples, "backfill_batches", state=state) for state in State}
    expected = dict.fromkeys(State, 0.0) | {State.VALIDATING: 2.0, State.CANCELLING: 1.0}
    assert found == expected


async def test_each_scrape_tells_of_its_own_moment(make_api: MakeApi) -> None:
    answered = iter((1, 2))
    api = await make_api(services={"list_replicas": lambda: (make_replica("local", answered=next(answered)),)})
    values = [
        pick(read(await api.client.get("/metrics")), "backfill_requests_total", replica="local", outcome="answered")
        for _ in range(2)
    ]
    assert values == [1, 2]
    assert not [name for name in (family.name for family in REGISTRY.collect()) if name.startswith("backfill")]


async def test_no_contents_are_told_and_a_key_is_asked_for(make_api: MakeApi, content: bytes) -> None:
    api = await serve(make_api, AWAY, **{"server.api_keys": ["key-of-ada", "key-of-bob"]})
    for path in ("/metrics", "/v1/engines"):
        assert (await api.client.get(path)).status_code == 401
    api.client.headers["authorization"] = "Bearer key-of-ada"
    file = await api.upload(content)
    await api.create_batch(file["id"])
    other = {"authorization": "Bearer key-of-bob"}
    text = (await api.client.get("/metrics", headers=other)).text
    assert 'backfill_batches{state="validating"} 1.0' in text
    assert [word for word in ("key-of", file["id"], "small-model", "no connection") if word in text] == []


async def test_engines_are_listed_with_everything(make_api: MakeApi) -> None:
    api = await serve(make_api, BUSY, AWAY)
    for root in ("/v1", "/together/v1", "/openai/v1", ""):
        page = (await api.client.get(f"{root}/engines")).json()
        EnginePage.model_validate(page)
        assert [engine["name"] for engine in page["data"]] == ["local", 'gpu "1"']
        assert set(page["data"][0]) == {"object", *ReplicaStatus.__struct_fields__}
        assert page["data"][0]["kv_cache_use"] == 0.25
        assert page["data"][1]["trouble"] == "no connection"
        assert page["data"][1]["waiting_in_engine"] is None


def test_the_document_knows_every_word() -> None:
    (engine,) = get_args(EnginePage.model_fields["data"].annotation)
    for name, words in (("state", ReplicaState), ("bottleneck", Bottleneck)):
        assert get_args(engine.model_fields[name].annotation) == tuple(words)


async def add_used(api: Api) -> None:
    """A batch that has ended and cost something, and the source that tells of it."""
    batch = Batch(
        id="used",
        owner="o",
        endpoint="/v1/chat/completions",
        input_file_id="f",
        input_size_bytes=1,
        state=State.COMPLETED,
        created_at_ms=1,
        deadline_at_ms=2,
        ended_at_ms=2,
        prices={"m": Price(1, 1, 1, 1)},
        usage=(UsageRow("m", 0, 1, 0, Usage(1, 1, 0, 1)),),
    )
    await api.services.metadata.add_batch(batch)
    totals = UsageTotals(UsageRecords(api.services.metadata.database), api.services.config.money)
    sources = QuotaSources(api.services.measure, _find_no_limit, str)
    quota = Quota(api.services.metadata, 1000, sources)
    reserved = {"m": Reservation(1, 2, 3)}
    waiting = msgspec.structs.replace(batch, id="waiting", state=State.VALIDATING, reserved=reserved)
    await api.services.metadata.add_batch(waiting)
    data_size = functools.partial(describe_data_size, api.services.intake.data_size)
    metrics_sources = (totals.describe, quota.describe, data_size)
    api.app.state.services = replace(api.services, metrics_sources=metrics_sources)


async def _find_no_limit(_key_id: str) -> int | None:
    return None


async def test_the_page_tells_of_everything(make_api: MakeApi) -> None:
    page = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(backfill_\w+)` \| \w+ \| ([^|]*) \|", page)
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    api = await serve(make_api, BUSY)
    await add_used(api)
    samples = read(await api.client.get("/metrics"))
    found = {name: {label for label, _ in labels} for name, labels in samples}
    assert told == {name: labels for name, labels in found.items() if name.startswith("backfill_")}
    words = {value for _, labels in samples for label, value in labels if label in ("outcome", "kind")}
    for word in {*words, *ReplicaState, *Bottleneck, *ReplicaStatus.__struct_fields__}:
        assert f"`{word}`" in page, word


async def test_no_database_is_no_crash(make_api: MakeApi) -> None:
    api = await serve(make_api, BUSY)
    broken = await Metadata.open(api.services.config.data_dir / "other.db")
    try:
        await broken._database.write(lambda connection: connection.exec_driver_sql("DROP TABLE batches"))
        app = (await make_api(services={"metadata": broken})).client
        response = await app.get("/metrics")
    finally:
        await broken.close()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
