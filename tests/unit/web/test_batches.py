"""Batches as Together's clients see them. The traps are those of docs/wire.md."""

from datetime import UTC, datetime
from typing import Any

import pytest

from backfill.batch import Batch, Counts, File, FileStatus, Standing
from backfill.web.api import idempotency
from tests.unit.web.conftest import Api, MakeApi

CHAT = "/v1/chat/completions"
# What together 1.5 rejects as null.
NEEDED = (
    "id",
    "user_id",
    "input_file_id",
    "file_size_bytes",
    "status",
    "job_deadline",
    "created_at",
    "endpoint",
    "progress",
)


async def get_batch(api: Api, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.client.get(f"/v1/batches/{batch_id}")).json()
    return found


async def close(api: Api, batch_id: str, counts: Counts, output: File | None = None) -> None:
    batch = await api.services.metadata.get_batch(batch_id)
    assert await api.services.turns.close(batch, counts, output, None)


@pytest.fixture
async def file_id(api: Api, content: bytes) -> str:
    found: str = (await api.upload(content))["id"]
    return found


async def test_trap_6_18_create_is_wrapped(api: Api, file_id: str) -> None:
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": file_id})
    assert response.status_code == 201
    assert response.json().keys() == {"job", "warning"}
    assert response.json()["warning"] is None
    assert response.json()["job"]["id"]


async def test_trap_6_get_and_cancel_are_not_wrapped_and_a_list_is_an_array(api: Api, file_id: str) -> None:
    assert (await api.client.get("/v1/batches")).json() == []
    first = await api.create_batch(file_id)
    second = await api.create_batch(file_id)
    assert await get_batch(api, first["id"]) == first
    listed = (await api.client.get("/v1/batches")).json()
    assert {batch["id"] for batch in listed} == {first["id"], second["id"]}
    assert [batch["created_at"] for batch in listed] == sorted((batch["created_at"] for batch in listed), reverse=True)
    cancelled = await api.client.post(f"/v1/batches/{first['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["id"]) == (200, first["id"])


async def test_trap_7_a_job_has_all_that_old_clients_need(api: Api, file_id: str, content: bytes) -> None:
    job = await api.create_batch(file_id)
    assert [name for name in NEEDED if job[name] is None] == []
    assert (job["file_size_bytes"], job["progress"], job["status"]) == (len(content), 0.0, "VALIDATING")
    assert job["completed_at"] is None
    created, deadline = (datetime.fromisoformat(job[name]) for name in ("created_at", "job_deadline"))
    assert created.tzinfo == UTC
    assert (deadline - created).total_seconds() == 24 * 3600
    assert job["model_id"] == "small-model"


async def test_trap_8_a_cancel_shows_in_progress_until_it_is_done(api: Api, file_id: str) -> None:
    batch_id = (await api.create_batch(file_id))["id"]
    for _ in range(2):
        response = await api.client.post(f"/v1/batches/{batch_id}/cancel", headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["status"]) == (200, "IN_PROGRESS")
    await close(api, batch_id, Counts(total=2))
    assert (await get_batch(api, batch_id))["status"] == "CANCELLED"


async def test_cancelling_a_cancelled_batch_gives_it(api: Api, file_id: str) -> None:
    batch_id = (await api.create_batch(file_id))["id"]
    await api.client.post(f"/v1/batches/{batch_id}/cancel")
    await close(api, batch_id, Counts(total=2))
    response = await api.client.post(f"/v1/batches/{batch_id}/cancel")
    assert (response.status_code, response.json()) == (200, await get_batch(api, batch_id))
    assert response.json()["status"] == "CANCELLED"


async def test_trap_10_cancelling_what_has_ended_otherwise_is_a_400(api: Api) -> None:
    batch_id = (await api.create_batch((await api.upload(b"no json"))["id"]))["id"]
    await api.services.turns.admit_waiting()
    response = await api.client.post(f"/v1/batches/{batch_id}/cancel")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_batch_state")
    assert error["message"] == "A batch that is failed cannot be cancelled."
    assert response.headers["x-should-retry"] == "false"


async def test_trap_19_bad_lines_fail_the_job_with_their_numbers(api: Api) -> None:
    good = b'{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}\n'
    file = await api.upload(good + b"[1]\n" + good)
    batch_id = (await api.create_batch(file["id"]))["id"]
    await api.services.turns.admit_waiting()
    job = await get_batch(api, batch_id)
    assert job["status"] == "FAILED"
    assert type(job["error"]) is str
    assert "line 2: " in job["error"]
    assert "line 3: " in job["error"]


async def test_progress_of_a_running_batch_is_counted_and_of_an_ended_one_read(
    make_api: MakeApi, content: bytes
) -> None:
    async def measure(batch: Batch) -> Standing:
        return Standing(Counts(total=2, answered=1))

    api = await make_api(services={"measure": measure})
    batch_id = (await api.create_batch((await api.upload(content))["id"]))["id"]
    await api.services.turns.admit_waiting()
    job = await get_batch(api, batch_id)
    assert (job["status"], job["progress"]) == ("IN_PROGRESS", 50.0)
    assert (await api.client.get("/v1/batches")).json() == [job]
    (turn,) = await api.services.turns.take(1)
    await api.services.turns.give_back(turn, drained=True)
    output = File(
        id="file-out",
        owner=turn.batch.owner,
        filename="output.jsonl",
        purpose="batch-api",
        status=FileStatus.SEALED,
        created_at_ms=1,
        size_bytes=2,
        line_count=1,
    )
    await close(api, batch_id, Counts(total=2, answered=2), output)
    job = await get_batch(api, batch_id)
    assert (job["status"], job["progress"], job["output_file_id"]) == ("COMPLETED", 100.0, "file-out")
    # An output is no input.
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": "file-out"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_file_purpose")


async def test_trap_5_a_reserved_file_is_no_input(api: Api) -> None:
    file_id = (await api.reserve()).headers["x-together-file-id"]
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": file_id})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "input_file_id", "file_not_uploaded")


async def test_trap_10_a_create_that_is_sent_again_is_one_batch(
    api: Api, file_id: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"endpoint": CHAT, "input_file_id": file_id}

    async def create(retry_count: int, **changes: str) -> tuple[int, str]:
        headers = {"x-stainless-retry-count": str(retry_count)}
        response = await api.client.post("/v1/batches", json=body | changes, headers=headers)
        return response.status_code, response.json()["job"]["id"]

    first = await create(0)
    assert await create(1) == first
    assert await create(2) == first
    # Not tried again, or not the same: another batch.
    second = await create(0)
    assert second != first
    other_file = (await api.upload(content))["id"]
    assert await create(1, input_file_id=other_file) not in {first, second}
    assert (await create(1, endpoint="/v1/completions"))[1] not in {first[1], second[1]}
    monkeypatch.setattr(idempotency, "REPEAT_WINDOW_MS", -1)
    assert await create(1) not in {first, second}


async def test_members_that_are_not_known_are_let_pass(api: Api, file_id: str) -> None:
    job = await api.create_batch(file_id, completion_window="24h", priority=3, metadata={"team": "a"}, extra=[1])
    assert job["status"] == "VALIDATING"
    nulls = await api.create_batch(file_id, completion_window=None, model_id=None, priority=None)
    assert nulls["status"] == "VALIDATING"


async def test_a_model_of_the_batch_and_a_window(api: Api, file_id: str) -> None:
    job = await api.create_batch(file_id, model_id="large-model", completion_window="2h")
    created, deadline = (datetime.fromisoformat(job[name]) for name in ("created_at", "job_deadline"))
    assert (job["model_id"], (deadline - created).total_seconds()) == ("large-model", 7200)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"", None, "empty"),
        (b"{", None, "not valid JSON"),
        (b"\xff", None, "not valid JSON"),
        (b"[]", None, "JSON object"),
        (b"null", None, "JSON object"),
        (b'{"endpoint":"/v1/chat/completions"}', "input_file_id", "this body has neither."),
        (b'{"input_file_id":"file-1"}', "endpoint", "endpoint is missing."),
        (b'{"endpoint":7,"input_file_id":"f"}', "endpoint", "endpoint must be a string."),
        (b'{"endpoint":"/v1/chat/completions","input_file_id":null}', "input_file_id", "this body has neither."),
        (b'{"endpoint":"/v1/chat/completions","input_file_id":""}', "input_file_id", "must not be empty"),
        (b'{"endpoint":"/v1/chat/completions","input_file_id":"f","priority":"high"}', "priority", "whole number"),
        (b'{"endpoint":"/v1/chat/completions","input_file_id":"f","priority":true}', "priority", "whole number"),
        (
            b'{"endpoint":"/v1/chat/completions","input_file_id":"f","priority":99999999999}',
            "priority",
            "at most 2147483647",
        ),
        (b'{"endpoint":"/v1/chat/completions","input_file_id":"f","model_id":["m"]}', "model_id", "a string"),
        (b'{"endpoint":"/v1/images","input_file_id":"f"}', "endpoint", "/v1/chat/completions"),
        (
            b'{"endpoint":"/v1/chat/completions","input_file_id":"f","completion_window":"soon"}',
            "completion_window",
            "from 15m to 72h",
        ),
        (
            b'{"endpoint":"/v1/chat/completions","input_file_id":"f","completion_window":"10m"}',
            "completion_window",
            'from 15m to 72h; got "10m"',
        ),
    ],
)
async def test_what_is_wrong_with_a_create_is_said(api: Api, body: bytes, param: str | None, said: str) -> None:
    response = await api.client.post("/v1/batches", content=body, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert said in error["message"]


async def test_a_create_is_read_whatever_its_content_type(api: Api, file_id: str) -> None:
    """`curl -d` without a header says that it sends a form."""
    body = f'{{"endpoint":"{CHAT}","input_file_id":"{file_id}"}}'
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert (await api.client.post("/v1/batches", content=body, headers=headers)).status_code == 201


async def test_a_create_is_bounded(api: Api) -> None:
    response = await api.client.post("/v1/batches", content=b" " * 70_000)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_file_that_is_not_there(api: Api) -> None:
    response = await api.client.post("/v1/batches", json={"endpoint": CHAT, "input_file_id": "file-0"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404, "input_file_id", "not_found")


async def test_a_pause_is_in_progress_to_clients_and_says_why_it_waits(api: Api, file_id: str) -> None:
    job = await api.create_batch(file_id)
    paused = await api.client.post(f"/v1/batches/{job['id']}/pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "IN_PROGRESS")
    waiting = paused.json()["waiting"]
    assert waiting["reason"] == "paused"
    assert f"backfill resume {job['id']}" in waiting["message"]
    assert datetime.fromisoformat(waiting["since"]) >= datetime.fromisoformat(job["created_at"])
    assert paused.json()["job_deadline"] == job["job_deadline"]
    again = (await api.client.post(f"/v1/batches/{job['id']}/pause")).json()
    assert again == paused.json()
    theirs = (await api.client.get(f"/openai/v1/batches/{job['id']}")).json()
    assert (theirs["status"], theirs["waiting"]["reason"]) == ("in_progress", "paused")
    assert isinstance(theirs["waiting"]["since"], int)
    assert (await api.client.get("/v1/batches")).json()[0]["waiting"] == waiting


async def test_a_resume_goes_on_and_can_be_repeated(api: Api, file_id: str) -> None:
    batch_id = (await api.create_batch(file_id))["id"]
    await api.client.post(f"/v1/batches/{batch_id}/pause")
    for _ in range(2):
        resumed = await api.client.post(f"/openai/v1/batches/{batch_id}/resume")
        assert (resumed.status_code, resumed.json()["status"]) == (200, "in_progress")
        assert "waiting" not in resumed.json()


async def test_trap_10_pausing_and_resuming_what_has_ended_is_a_400(api: Api) -> None:
    bad = await api.upload(b"[]\n")
    batch_id = (await api.create_batch(bad["id"]))["id"]
    await api.services.turns.admit_waiting()
    for move, participle in (("pause", "paused"), ("resume", "resumed")):
        response = await api.client.post(f"/v1/batches/{batch_id}/{move}")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_batch_state")
        assert error["message"] == f"A batch that is failed cannot be {participle}."
        missing = await api.client.post(f"/v1/batches/00000000-0000-0000-0000-000000000000/{move}")
        assert missing.status_code == 404


async def test_batches_of_a_group_are_listed_alone(api: Api, file_id: str) -> None:
    parts = [await api.create_batch(file_id, metadata={"group": "one", "part": part}) for part in ("1", "2")]
    await api.create_batch(file_id, metadata={"group": "two"})
    await api.create_batch(file_id)
    for path in ("/v1/batches?group=one", "/together/v1/batches?group=one"):
        found = (await api.client.get(path)).json()
        assert {batch["id"] for batch in found} == {batch["id"] for batch in parts}
        assert found[0]["metadata"]["group"] == "one"
    page = (await api.client.get("/openai/v1/batches?group=one&limit=1")).json()
    assert (len(page["data"]), page["has_more"]) == (1, True)
    assert (await api.client.get("/v1/batches?group=none")).json() == []
