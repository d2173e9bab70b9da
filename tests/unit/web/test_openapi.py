"""The OpenAPI document: every route is in it, and what the API answers has the form that it says."""

from typing import Any

from backfill.batch import Batch, BatchProblem, Dialect, State
from backfill.status import Waiting, WaitReason
from backfill.web.api.operations import OPERATIONS
from backfill.web.api.schemas import (
    BatchCreated,
    BatchPage,
    ErrorAnswer,
    FileAnswer,
    FilePage,
    OpenAIBatch,
    TogetherBatch,
)
from backfill.wire import openai, together
from tests.unit.web.conftest import Api


async def read_document(api: Api) -> dict[str, Any]:
    response = await api.client.get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def test_every_route_is_in_the_document(api: Api) -> None:
    routes = {(method, route.path_format) for route in api.app.state.routes for method in route.methods}
    assert routes == set(OPERATIONS)
    document = await read_document(api)
    assert {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} == routes


async def test_every_reference_leads_somewhere(api: Api) -> None:
    document = await read_document(api)

    def find(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(find, node.values()))
        return set().union(*map(find, node)) if isinstance(node, list) else set()

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert find(document) == known, "a schema is missing, or nothing refers to it"


async def test_every_operation_says_how_it_fails(api: Api) -> None:
    for path, methods in (await read_document(api))["paths"].items():
        for method, operation in methods.items():
            assert "500" in operation["responses"], (method, path)
            assert ("401" in operation["responses"]) == bool(operation["security"]), (method, path)


async def test_files_have_the_form_that_the_document_says(api: Api, content: bytes) -> None:
    FileAnswer.model_validate(await api.upload(content))
    FilePage.model_validate((await api.client.get("/v1/files")).json())
    ErrorAnswer.model_validate((await api.client.get("/v1/files/0")).json())


async def test_batches_have_the_form_that_the_document_says(api: Api, content: bytes) -> None:
    file_id = (await api.upload(content))["id"]
    body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
    BatchCreated.model_validate((await api.client.post("/v1/batches", json=body)).json())
    response = await api.client.post("/openai/v1/batches", json=body | {"metadata": {"a": "b"}})
    OpenAIBatch.model_validate(response.json())
    BatchPage.model_validate((await api.client.get("/openai/v1/batches")).json())
    for job in (await api.client.get("/together/v1/batches")).json():
        TogetherBatch.model_validate(job)


def test_a_batch_in_every_state_has_that_form() -> None:
    for state in State:
        batch = Batch(
            id="0",
            owner="0",
            endpoint="/v1/chat/completions",
            input_file_id="file-0",
            input_size_bytes=1,
            state=state,
            created_at_ms=1,
            deadline_at_ms=2,
            dialect=Dialect.OPENAI,
            started_at_ms=1,
            closing_at_ms=1,
            ended_at_ms=2,
            problems=(BatchProblem("code", "message", 1, "param"), BatchProblem("code", "message")),
            problem_count=2,
        )
        for waiting in (None, *(Waiting(reason, "the engine is out", 1) for reason in WaitReason)):
            OpenAIBatch.model_validate(openai.render_batch(batch, batch.counts, waiting))
            TogetherBatch.model_validate(together.render_batch(batch, batch.counts, waiting))
