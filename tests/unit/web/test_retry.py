"""Retry only what failed: exactly those lines, byte for byte, and once however often it is asked for."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backfill.app import Rooms
from backfill.batch import Batch, Dialect, State
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.rooms import OWNER, create_batch, open_house, read_results, wait_for_batch
from tests.unit.web.serving import serve

LINES = 30
REFUSED, EXHAUSTED = 4, 11


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine(faults={marker_of(REFUSED): ["400"], marker_of(EXHAUSTED): ["500"] * 5}) as running:
        yield running


def client_of(rooms: Rooms) -> httpx.AsyncClient:
    app, _ = serve(rooms)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def retry(rooms: Rooms, batch: Batch, root: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
    async with client_of(rooms) as client:
        answer = await client.post(f"{root}/v1/batches/{batch.id}/retry", headers=headers)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found


def read_input(rooms: Rooms, batch: Batch) -> bytes:
    return rooms.blobs.read(f"files/{batch.input_file_id}/content")


def make_lines() -> list[bytes]:
    """Spelled in many ways: a mark at the start, other line ends, blank lines, another order, no last end."""
    lines = [request_line(number) for number in range(LINES)]
    lines[REFUSED] = b'  {"body": %b, "extra": [1, 2], "custom_id": "gr\xc3\xb6\xc3\x9fe"}  \r' % (
        json.dumps(json.loads(lines[REFUSED])["body"]).encode()
    )
    lines[0] = b"\xef\xbb\xbf" + lines[0] + b"\r"
    lines[7] += b"\n\n  \r"
    return lines


async def test_requests_that_were_never_sent_are_retried_as_others_are(engine: NullEngine, tmp_path: Path) -> None:
    bad = [b'{"custom_id":"none"}', request_line(2, stream=True)]
    lines = [b"\xef\xbb\xbf" + bad[0] + b"\r", request_line(REFUSED), b"", b" " + bad[1]]
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, b"\n".join([*lines, request_line(1)]))).id)
        assert (ended.counts.answered, ended.counts.failed) == (1, 3)
        _, answer = await retry(rooms, ended)
        made = await wait_for_batch(rooms, answer["job"]["id"])
        assert read_input(rooms, made) == b"".join(line + b"\n" for line in lines if line)
        assert (made.state, made.counts.answered, made.counts.failed) == (State.COMPLETED, 1, 2)
        _, answer = await retry(rooms, made)
        made = await wait_for_batch(rooms, answer["job"]["id"])
        assert (made.state, [problem.line for problem in made.problems]) == (State.FAILED, [1, 2])


async def test_exactly_the_failed_lines_run_again_and_complete(engine: NullEngine, tmp_path: Path) -> None:
    lines = make_lines()
    async with open_house(tmp_path, engine.url) as rooms:
        created = await create_batch(rooms, b"\n".join(lines), model_id="m", metadata={"a": "1"}, priority=3)
        ended = await wait_for_batch(rooms, created.id)
        assert (ended.counts.answered, ended.counts.failed) == (LINES - 2, 2)
        status, answer = await retry(rooms, ended)
        assert status == 201
        made = await wait_for_batch(rooms, answer["job"]["id"])
        assert made.state is State.COMPLETED
        assert (made.counts.total, made.counts.answered, made.error_file_id) == (2, 2, None)
        assert read_input(rooms, made) == lines[REFUSED] + b"\n" + lines[EXHAUSTED] + b"\n"
        custom_ids = [json.loads(line)["custom_id"] for line in read_results(rooms, made.output_file_id)]
        assert custom_ids == ["größe", f"request-{EXHAUSTED}"]
        for name in ("owner", "endpoint", "model_id", "dialect", "completion_window", "priority"):
            assert getattr(made, name) == getattr(ended, name)
        assert made.deadline_at_ms - made.created_at_ms == ended.deadline_at_ms - ended.created_at_ms
        assert made.metadata == {"a": "1", "retry_of": ended.id}
        purposes = [(await rooms.metadata.get_file(each.input_file_id)).purpose for each in (ended, made)]
        assert purposes == ["batch-api"] * 2
        status, answer = await retry(rooms, made)
        assert (status, answer["error"]["code"]) == (400, "nothing_to_retry")
        async with client_of(rooms) as client:
            told = {"metadata": {"a": "2", "retry_of": "it is not"}}
            answer = (await client.post(f"/together/v1/batches/{ended.id}/retry", json=told)).json()
        assert answer["job"]["metadata"] == {"a": "2", "retry_of": ended.id}


async def test_what_a_cancel_left_undone_has_failed_too(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(10, LINES)})
    lines = [request_line(number) for number in range(LINES)]
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, b"\n".join(lines))
        status, answer = await retry(rooms, created)
        assert (status, answer["error"]["code"]) == (400, "batch_not_ended")
        await engine.wait_for_async(lambda stats: stats["answered"] == 10)
        await rooms.turns.cancel(created.id, OWNER)
        ended = await wait_for_batch(rooms, created.id)
        engine.behave(faults={})
        _, answer = await retry(rooms, ended)
        made = await wait_for_batch(rooms, answer["job"]["id"])
        assert made.counts.answered == ended.counts.failed
        assert read_input(rooms, made) == b"".join(line + b"\n" for line in lines[ended.counts.answered :])


async def test_the_dialect_stays(engine: NullEngine, tmp_path: Path) -> None:
    line = b'{"method":"POST","url":"/v1/chat/completions",' + request_line(REFUSED)[1:]
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, line, dialect=Dialect.OPENAI)).id)
        status, answer = await retry(rooms, ended)
        assert (status, answer["object"], answer["metadata"]) == (200, "batch", {"retry_of": ended.id})
        made = await wait_for_batch(rooms, answer["id"])
        assert (made.dialect, made.counts.answered) == (Dialect.OPENAI, 1)


@pytest.mark.parametrize("headers", [{"idempotency-key": "k"}, {"x-stainless-retry-count": "1"}], ids=str)
async def test_asked_for_many_times_at_once_it_makes_one_batch(
    engine: NullEngine, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(REFUSED))).id)
        answers = await asyncio.gather(*(retry(rooms, ended, **headers) for _ in range(10)))
        assert len({answer["job"]["id"] for _, answer in answers}) == 1
        assert len(await rooms.metadata.list_batches(OWNER, limit=99)) == 2
        inputs = [file for file in await rooms.metadata.list_files(OWNER, limit=99) if file.survey]
        assert len(inputs) == 2


async def test_without_its_journal_nobody_knows_what_failed(engine: NullEngine, tmp_path: Path) -> None:
    lines = b"\n".join((request_line(0), request_line(REFUSED)))
    async with open_house(tmp_path, engine.url, retention__journals_days=1e-9) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, lines)).id)
        await rooms.retention.remove_aged()
        status, answer = await retry(rooms, ended)
        assert (status, answer["error"]["code"]) == (400, "journal_removed")
        assert len([file for file in await rooms.metadata.list_files(OWNER, limit=99) if file.survey]) == 1
        async with client_of(rooms) as client:
            followed = await client.get(f"/v1/batches/{ended.id}/results")
            assert (followed.status_code, followed.json()["error"]["code"]) == (400, "journal_removed")
            kept = (await client.get(f"/v1/batches/{ended.id}")).json()
            assert kept["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


async def test_refusals_are_not_told_as_left_undone_without_their_journal(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url, retention__journals_days=1e-9) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(REFUSED))).id)
        await rooms.retention.remove_aged()
        async with client_of(rooms) as client:
            followed = await client.get(f"/v1/batches/{ended.id}/results")
            assert (followed.status_code, followed.json()["error"]["code"]) == (400, "journal_removed")


async def test_what_cannot_be_retried_is_said(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        rejected = await wait_for_batch(rooms, (await create_batch(rooms, b"[]")).id)
        status, answer = await retry(rooms, rejected)
        assert (status, answer["error"]["code"]) == (400, "nothing_to_retry")
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(REFUSED))).id)
        await rooms.intake.remove(ended.input_file_id)
        status, answer = await retry(rooms, ended)
        assert (status, answer["error"]["code"]) == (400, "input_file_deleted")
        async with client_of(rooms) as client:
            assert (await client.post("/v1/batches/none/retry")).status_code == 404


async def list_failures(rooms: Rooms, batch: Batch) -> list[dict[str, Any]]:
    async with client_of(rooms) as client:
        answer = await client.get(f"/v1/batches/{batch.id}/failures")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def choose(rooms: Rooms, batch: Batch, **choice: str) -> tuple[int, dict[str, Any]]:
    async with client_of(rooms) as client:
        answer = await client.post(f"/v1/batches/{batch.id}/retry", json=choice)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found


@pytest.mark.parametrize("dialect", Dialect)
async def test_what_failed_for_one_reason_is_one_group_and_runs_again_alone(
    engine: NullEngine, tmp_path: Path, dialect: Dialect
) -> None:
    engine.behave(
        faults={marker_of(number): ["400"] for number in range(5)}
        | {marker_of(9): ["500"] * 5, marker_of(8): ["500"] * 5}
    )
    target = b'{"method":"POST","url":"/v1/chat/completions",'
    lines = [target + request_line(number)[1:] for number in range(LINES)]
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, b"\n".join(lines), dialect=dialect)).id)
        engine.behave(faults={})
        refused, lost = await list_failures(rooms, ended)
        assert (refused["count"], refused["custom_ids"]) == (5, ["request-0", "request-1", "request-2"])
        assert (lost["count"], lost["code"], lost["custom_ids"]) == (2, "server_error", ["request-8", "request-9"])
        assert ended.started_at_ms is not None
        assert refused["first_at"] <= refused["last_at"]
        _, answer = await choose(rooms, ended, group=refused["id"])
        made = await wait_for_batch(rooms, (answer.get("job") or answer)["id"])
        assert read_input(rooms, made) == b"".join(line + b"\n" for line in lines[:5])
        assert await list_failures(rooms, made) == []
        _, answer = await choose(rooms, ended, code="server_error")
        made = await wait_for_batch(rooms, (answer.get("job") or answer)["id"])
        assert read_input(rooms, made) == b"".join(line + b"\n" for line in lines[8:10])
        status, answer = await choose(rooms, ended, code="of-nothing")
        assert (status, answer["error"]["code"]) == (400, "nothing_to_retry")
        assert "server_error" in answer["error"]["message"]
        status, answer = await choose(rooms, ended, reason="server_error")
        assert (status, answer["error"]["param"]) == (400, "reason")


async def test_lines_that_are_no_requests_are_not_run_again(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        made = await create_batch(rooms, b"no request\n" + request_line(1), skips_invalid_lines=True)
        ended = await wait_for_batch(rooms, made.id)
        assert (ended.counts.answered, ended.counts.failed) == (1, 1)
        status, answer = await retry(rooms, ended)
        assert (status, answer["error"]["code"]) == (400, "nothing_to_retry")
        assert "that failed are no requests (invalid_json_line), and would fail again" in answer["error"]["message"]


async def test_metadata_of_any_allowed_size_is_taken(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, request_line(REFUSED))).id)
        metadata = {f"{number:064}": "\U0001f600" * 512 for number in range(15)}
        async with client_of(rooms) as client:
            answer = await client.post(f"/v1/batches/{ended.id}/retry", json={"metadata": metadata})
        assert (answer.status_code, answer.json()["job"]["metadata"]) == (201, metadata | {"retry_of": ended.id})


async def test_other_lines_of_the_same_batch_are_another_request(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        lines = b"\n".join(request_line(number) for number in range(LINES))
        ended = await wait_for_batch(rooms, (await create_batch(rooms, lines)).id)
        engine.behave(faults={})
        async with client_of(rooms) as client:
            path, key = f"/v1/batches/{ended.id}/retry", {"idempotency-key": "once"}
            first, second = [await client.post(path, json={"code": "server_error"}, headers=key) for _ in range(2)]
            other = await client.post(path, headers=key)
        assert first.json()["job"]["id"] == second.json()["job"]["id"]
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reuse")


async def test_what_a_cancel_left_undone_is_a_group_without_times(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["hang"] for number in range(10, LINES)})
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, b"\n".join(request_line(number) for number in range(LINES)))
        await engine.wait_for_async(lambda stats: stats["answered"] == 10)
        assert await list_failures(rooms, created) == []
        await rooms.turns.cancel(created.id, OWNER)
        ended = await wait_for_batch(rooms, created.id)
        (group,) = await list_failures(rooms, ended)
        assert (group["count"], group["first_at"]) == (ended.counts.failed, None)
        await rooms.intake.remove(ended.input_file_id)
        async with client_of(rooms) as client:
            answer = await client.get(f"/v1/batches/{ended.id}/failures")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "input_file_deleted")


async def test_a_batch_that_was_rejected_has_no_failed_lines(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        ended = await wait_for_batch(rooms, (await create_batch(rooms, b"{}\n")).id)
        assert (ended.state, await list_failures(rooms, ended)) == (State.FAILED, [])
