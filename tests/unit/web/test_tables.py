"""Tables over the API: what one is, the requests of its rows, and results as tables."""

import csv
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet

from backfill.app import Rooms
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_lines
from tests.support.rooms import open_house, wait_for_batch
from tests.unit.web.conftest import MakeApi
from tests.unit.web.serving import serve

REVIEWS = b'id,text\n1,good\n2,"bad, very"\n3,fine\n'
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    yield
    engine.behave(hold=False, faults=None)


@asynccontextmanager
async def open_api(folder: Path, engine: NullEngine) -> AsyncIterator[tuple[Rooms, httpx.AsyncClient]]:
    async with open_house(folder, engine.url) as rooms:
        app, services = serve(rooms)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield rooms, client
        services.stopping.set()


async def upload(client: httpx.AsyncClient, content: bytes, name: str = "reviews.csv") -> str:
    sent = await client.post("/v1/files", data={"purpose": "table"}, files={"file": (name, content)})
    assert sent.status_code == 200, sent.text
    return str(sent.json()["id"])


async def run(rooms: Rooms, client: httpx.AsyncClient, table_id: str, **asked: Any) -> str:
    """The id of a batch that has ended."""
    made = await client.post(f"/v1/files/{table_id}/requests", json={"model": "m", **asked})
    assert made.status_code == 200, made.text
    wanted = {"endpoint": asked.get("endpoint", CHAT), "input_file_id": made.json()["file"]["id"]}
    created = await client.post("/v1/batches", json=wanted)
    batch_id = created.json()["job"]["id"]
    await wait_for_batch(rooms, batch_id)
    return str(batch_id)


async def fetch_csv(client: httpx.AsyncClient, batch_id: str) -> list[dict[str, str]]:
    found = await client.get(f"/v1/batches/{batch_id}/results?format=csv")
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(found.text)))


async def test_a_table_says_what_it_is(make_api: MakeApi) -> None:
    api = await make_api()
    table_id = await upload(api.client, b"id;text\n1;a\n2;b\n")
    found = await api.client.get(f"/v1/files/{table_id}/table?rows=1")
    assert found.json() == {
        "object": "table",
        "file_id": table_id,
        "format": "CSV",
        "columns": ["id", "text"],
        "rows": 2,
        "note": "cells are separated by semicolons",
        "first_rows": [["1", "a"]],
    }
    content = await api.client.get(f"/v1/files/{table_id}/content")
    assert content.headers["content-type"] == "application/octet-stream"
    listed = (await api.client.get("/v1/files?purpose=table")).json()["data"]
    assert [file["id"] for file in listed] == [table_id]


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"a,b\n1\n", "t.csv", "t.csv:2: the row has 1 cell where the header has 2."),
        (b"PK\x03\x04", "t.xlsx", "save the sheet as CSV"),
        (b"PAR1 and nothing more", "t.parquet", "is not a Parquet file"),
        (b'{"a": 1}\n[]\n', "t.jsonl", "t.jsonl:2: the line is no JSON object"),
    ],
)
async def test_what_is_no_table_says_where(make_api: MakeApi, content: bytes, name: str, told: str) -> None:
    api = await make_api()
    table_id = await upload(api.client, content, name)
    found = await api.client.get(f"/v1/files/{table_id}/table")
    assert found.status_code == 400
    assert told in found.json()["error"]["message"]
    assert str(api.services.config.data_dir) not in found.text


async def test_a_preview_makes_nothing(make_api: MakeApi) -> None:
    api = await make_api()
    table_id = await upload(api.client, REVIEWS)
    before = api.list_blobs()
    asked = {"prompt": "Classify: {text}", "system": "Be short.", "id_column": "id", "preview": 2}
    found = await api.client.post(f"/v1/files/{table_id}/requests", json=asked)
    assert found.json()["rows"] == found.json()["looked_at"] == 3
    first, second = found.json()["requests"]
    assert first["custom_id"] == "1"
    assert second["body"]["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Classify: bad, very"},
    ]
    assert api.list_blobs() == before


@pytest.mark.parametrize(
    ("asked", "code", "told"),
    [
        ({"prompt": "{txet}"}, "unknown_column", "has no column 'txet', which prompt names; did you mean 'text'?"),
        ({"prompt": "{text}", "id_column": "no"}, "unknown_column", "which id_column names"),
        ({"prompt": "{text"}, "bad_template", "is never closed"),
        ({"prompt": ""}, "no_prompt", "needs a prompt"),
        ({"prompt": "hello"}, "no_column", "names no column"),
        ({"prompt": "{text}", "columns": "a:floot"}, "bad_columns", "unknown type 'floot'"),
        ({"prompt": "{text}", "columns": "text"}, "column_exists", "columns or schema must name new ones"),
        ({"prompt": "{text}", "endpoint": "/v1/nothing"}, "invalid_endpoint", "endpoint must be one of"),
        ({"prompt": "{text}", "wrong": 1}, "invalid_request", "wrong"),
    ],
)
@pytest.mark.parametrize("preview", [{}, {"preview": 3}])
async def test_what_cannot_be_asked_is_told(
    make_api: MakeApi, asked: dict[str, Any], code: str, told: str, preview: dict[str, int]
) -> None:
    api = await make_api()
    table_id = await upload(api.client, REVIEWS)
    found = await api.client.post(f"/v1/files/{table_id}/requests", json=asked | preview)
    assert found.status_code == 400
    assert (found.json()["error"]["code"], told in found.json()["error"]["message"]) == (code, True), found.text


async def test_ids_must_tell_rows_apart_and_rows_must_be_few_enough(make_api: MakeApi) -> None:
    api = await make_api(**{"limits.lines": 2})
    table_id = await upload(api.client, b"id,text\nx,1\nx,2\n")
    found = await api.client.post(f"/v1/files/{table_id}/requests", json={"prompt": "{text}", "id_column": "id"})
    assert found.json()["error"]["code"] == "duplicate_id"
    many = await upload(api.client, REVIEWS)
    found = await api.client.post(f"/v1/files/{many}/requests", json={"prompt": "{text}"})
    assert found.json()["error"]["code"] == "too_many_requests"
    assert "3 rows to ask about; a batch may have 2" in found.json()["error"]["message"]
    found = await api.client.post(f"/v1/files/{many}/requests", json={"prompt": "{text}", "limit": 2})
    assert found.json()["file"]["LineCount"] == 2


async def test_no_batch_is_made_of_a_table_and_no_requests_of_a_file_that_is_none(make_api: MakeApi) -> None:
    api = await make_api()
    table_id = await upload(api.client, REVIEWS)
    made = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": table_id})
    assert made.json()["error"]["code"] == "invalid_file_purpose"
    assert f"/v1/files/{table_id}/requests" in made.json()["error"]["message"]
    requests = await api.upload(request_lines(1))
    found = await api.client.post(f"/v1/files/{requests['id']}/requests", json={"prompt": "{a}"})
    assert found.json()["error"]["code"] == "invalid_file_purpose"


async def test_a_table_of_somebody_else_is_not_there(make_api: MakeApi) -> None:
    api = await make_api(**{"server.api_keys": ["one", "two"]})
    one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    sent = await api.client.post(
        "/v1/files", data={"purpose": "table"}, files={"file": ("t.csv", REVIEWS)}, headers=one
    )
    table_id = sent.json()["id"]
    for method, path, body in (("GET", "table", None), ("POST", "requests", {"prompt": "{text}"})):
        found = await api.client.request(method, f"/v1/files/{table_id}/{path}", json=body, headers=two)
        assert found.status_code == 404


async def test_results_stand_beside_the_rows_of_their_table(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(2): ["400"]})
    rows = "".join(f"n{number},marker-{marker_of(number)}\n" for number in range(1, 5))
    async with open_api(tmp_path, engine) as (rooms, client):
        table_id = await upload(client, f"name,text\n{rows}".encode())
        batch_id = await run(rooms, client, table_id, prompt="{text}", id_column="name")
        found = await fetch_csv(client, batch_id)
        assert [row["name"] for row in found] == ["n1", "n2", "n3", "n4"]
        assert [bool(row["answer"]) for row in found] == [True, False, True, True]
        assert [bool(row["_error"]) for row in found] == [False, True, False, False]
        assert int(found[0]["_prompt_tokens"]) > 0
        whole = await client.get(f"/v1/batches/{batch_id}/results?format=parquet")
        assert whole.headers["content-type"] == "application/vnd.apache.parquet"
        typed = parquet.read_table(io.BytesIO(whole.content))
        assert typed.column_names[:4] == ["name", "text", "answer", "_error"]
        assert typed["answer"].to_pylist()[1] is None
        # Of those that failed only their ids are known, and what was asked for.
        engine.behave(faults=None)
        retried = (await client.post(f"/v1/batches/{batch_id}/retry")).json()["job"]["id"]
        await wait_for_batch(rooms, retried)
        assert [row["custom_id"] for row in await fetch_csv(client, retried)] == ["n2"]


async def test_typed_answers_and_rows_that_could_not_be_asked(engine: NullEngine, tmp_path: Path) -> None:
    async with open_api(tmp_path, engine) as (rooms, client):
        sink = io.BytesIO()
        parquet.write_table(pa.table({"key": ["a", None, "c"], "n": [1, 2, 3]}), sink)
        table_id = await upload(client, sink.getvalue(), "t.parquet")
        made = await client.post(
            f"/v1/files/{table_id}/requests",
            json={"prompt": "{n}", "id_column": "key", "columns": "label:enum(pos,neg)", "model": "m"},
        )
        assert made.json()["left_out_count"] == 1
        assert made.json()["left_out"] == [{"row": 2, "message": "column 'key' holds no id"}]
        wanted = {"endpoint": CHAT, "input_file_id": made.json()["file"]["id"]}
        batch_id = (await client.post("/v1/batches", json=wanted)).json()["job"]["id"]
        await wait_for_batch(rooms, batch_id)
        whole = await client.get(f"/v1/batches/{batch_id}/results?format=parquet")
        typed = parquet.read_table(io.BytesIO(whole.content))
        assert typed.column_names[:4] == ["key", "n", "label", "_error"]
        assert typed["n"].to_pylist() == [1, 2, 3]
        errors = typed["_error"].to_pylist()
        # The null engine says nothing that is JSON.
        assert "[bad_answer]" in errors[0]
        assert errors[1] == "column 'key' holds no id [not_sent]"
        await client.delete(f"/v1/files/{table_id}")
        gone = await client.get(f"/v1/batches/{batch_id}/results?format=csv")
        assert gone.json()["error"]["code"] == "table_deleted"


async def test_a_batch_that_runs_gives_all_rows(engine: NullEngine, tmp_path: Path) -> None:
    async with open_api(tmp_path, engine) as (rooms, client):
        engine.behave(hold=True)
        sent = await client.post(
            "/v1/files", data={"purpose": "batch-api"}, files={"file": ("a.jsonl", request_lines(3))}
        )
        created = await client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": sent.json()["id"]})
        batch_id = created.json()["job"]["id"]
        found = await fetch_csv(client, batch_id)
        assert [row["custom_id"] for row in found] == ["request-0", "request-1", "request-2"]
        assert {row["_error"] for row in found} == {"there is no answer yet [unfinished]"}
        head = await client.head(f"/v1/batches/{batch_id}/results?format=csv")
        assert (head.status_code, head.content) == (200, b"")
        engine.behave(hold=False)
        await wait_for_batch(rooms, batch_id)
        assert {row["_error"] for row in await fetch_csv(client, batch_id)} == {""}
        wrong = await client.get(f"/v1/batches/{batch_id}/results?format=xml")
        assert wrong.status_code == 400


async def test_large_tables_come_in_pieces_and_in_order(engine: NullEngine, tmp_path: Path) -> None:
    async with open_api(tmp_path, engine) as (rooms, client):
        table_id = await upload(client, b"n\n" + b"".join(b"%d\n" % number for number in range(3000)))
        batch_id = await run(rooms, client, table_id, prompt="{n}", limit=2500)
        found = await fetch_csv(client, batch_id)
        assert [int(row["n"]) for row in found] == list(range(2500))
        assert all(row["answer"] for row in found)
