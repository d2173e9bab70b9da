"""Lines that are no requests, in a batch that passes over them: lines of the error file, and the others run."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from backfill.app import Rooms
from backfill.batch import Batch, Dialect, State
from backfill.errors import Conflict
from backfill.index import LineIndex
from backfill.intake import FailureChoice, copy_failed_lines, group_failures
from backfill.store import index_key
from backfill.turns import Attempt, BatchRequest, now_ms
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.rooms import OWNER, create_batch, open_house, read_results, seal, wait_for_batch

CHAT = "/v1/chat/completions"
TARGET = {"method": "POST", "url": CHAT}


def line(number: int, **members: Any) -> bytes:
    return json.dumps(json.loads(request_line(number)) | TARGET | members).encode()


# Line of the file -> custom id and code of its error; None: it runs.
LINES: list[tuple[bytes, tuple[str | None, str] | None]] = [
    (b"\xef\xbb\xbf" + line(0), None),
    (b"", None),
    (b"not json", (None, "invalid_json_line")),
    (b'{"custom_id": "cut", "body"', (None, "invalid_json_line")),
    (line(1) + b"\r", None),
    (b'{"body": {}}', (None, "missing_custom_id")),
    (b'{"custom_id": 7, "body": {}}', (None, "invalid_custom_id")),
    (line(2, custom_id="x" * 65), (None, "invalid_custom_id")),
    (line(3, custom_id=""), (None, "invalid_custom_id")),
    (line(4, custom_id="request-1"), ("request-1", "duplicate_custom_id")),
    (b"[1]", (None, "invalid_json_line")),
    (b"\xff\xfe", (None, "invalid_json_line")),
    (b"   ", None),
    (line(5), None),
]
DATA = b"\n".join(each for each, _ in LINES)
ERRORS = [(number, *error) for number, (_, error) in enumerate(LINES, start=1) if error is not None]
WRONG_TARGETS = [
    (line(6, url="/v1/embeddings"), "url_mismatch"),
    (line(7, method="GET"), "invalid_method"),
    (request_line(8), "invalid_method"),
]


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


def read(rooms: Rooms, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_results(rooms, file_id)]


async def run_batch(rooms: Rooms, data: bytes, **request: Any) -> Batch:
    created = await create_batch(rooms, data, skips_invalid_lines=True, **request)
    return await wait_for_batch(rooms, created.id)


async def test_each_is_an_error_with_its_line_and_the_others_run(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, DATA)
        assert batch.state is State.COMPLETED
        assert [each["custom_id"] for each in read(rooms, batch.output_file_id)] == [
            "request-0",
            "request-1",
            "request-5",
        ]
        errors = read(rooms, batch.error_file_id)
        found = [(each["error"]["line"], each["custom_id"], each["error"]["code"]) for each in errors]
        assert found == ERRORS
        assert all(each["error"]["message"].startswith(f"Line {each['error']['line']}: ") for each in errors)
        messages = {each["error"]["line"]: each["error"]["message"] for each in errors}
        assert messages[10] == 'Line 10: custom_id "request-1" is used by line 5 already.'
        assert "65 characters" in messages[8]
        assert messages[9].endswith("custom_id is empty.")
        assert (batch.counts.total, batch.counts.answered, batch.counts.failed) == (12, 3, 9)
        assert sorted(engine.markers("received")) == [marker_of(number) for number in (0, 1, 5)]


async def test_openais_form_of_it_is_that_of_a_400(engine: NullEngine, tmp_path: Path) -> None:
    data = DATA + b"\n" + b"\n".join(each for each, _ in WRONG_TARGETS)
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, data, dialect=Dialect.OPENAI)
        assert batch.state is State.COMPLETED
        assert len(read(rooms, batch.output_file_id)) == 3
        found = []
        for each in read(rooms, batch.error_file_id):
            assert (each["error"], each["response"]["status_code"]) == (None, 400)
            error = each["response"]["body"]["error"]
            assert error["type"] == "invalid_request_error"
            found.append((error["line"], each["custom_id"], error["code"]))
        targets = [(15, "request-6", "url_mismatch"), (16, "request-7", "invalid_method")]
        assert found == [*ERRORS, *targets, (17, "request-8", "invalid_method")]
        assert batch.counts.total == batch.counts.answered + batch.counts.failed == 15


async def test_together_s_lines_need_no_target(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, b"\n".join([*(each for each, _ in WRONG_TARGETS), b"{"]))
        assert (batch.counts.answered, batch.counts.failed) == (3, 1)


@pytest.mark.parametrize("data", [b"{\n{}\n", b"{\n" + request_line(1, stream=True), b""])
async def test_if_none_is_left_the_batch_fails_and_says_why(engine: NullEngine, tmp_path: Path, data: bytes) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, data)
        assert (batch.state, batch.output_file_id, batch.error_file_id) == (State.FAILED, None, None)
        assert batch.problems
        assert engine.stats()["received"] == 0


async def test_a_setting_says_it_for_batches_that_do_not(engine: NullEngine, tmp_path: Path) -> None:
    async with open_house(tmp_path, engine.url, limits__on_invalid_lines="error_file") as rooms:
        asked = [
            await wait_for_batch(rooms, (await create_batch(rooms, DATA, skips_invalid_lines=choice)).id)
            for choice in (None, True, False)
        ]
        assert [batch.state for batch in asked] == [State.COMPLETED, State.COMPLETED, State.FAILED]


async def test_reasons_are_grouped_and_a_retry_leaves_out_what_is_no_request(
    engine: NullEngine, tmp_path: Path
) -> None:
    engine.behave(faults={marker_of(5): ["422"]})
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, DATA)
        groups = group_failures(rooms.blobs, batch)
        assert sum(group.count for group in groups) == batch.counts.failed == 10
        by_code = {group.code: group for group in groups if group.code == "missing_custom_id"}
        assert by_code["missing_custom_id"].custom_ids == ()
        source = await rooms.metadata.get_file(batch.input_file_id)
        with pytest.raises(Conflict, match="No failed request"):
            await copy_failed_lines(rooms.intake, batch, source, now_ms(), FailureChoice(code="missing_custom_id"))
        engine.behave(faults={})
        file = await copy_failed_lines(rooms.intake, batch, source, now_ms())
        made = await rooms.turns.retry(batch, file, Attempt())
        assert made.skips_invalid_lines
        again = await wait_for_batch(rooms, made.id)
        assert [each["custom_id"] for each in read(rooms, again.output_file_id)] == ["request-5"]


@pytest.mark.parametrize(
    ("data", "counts"),
    [(DATA, (3, 9)), (line(0) + b"\n" + line(1, custom_id="request-0"), (1, 1))],
    ids=["any", "twice"],
)
async def test_an_index_of_before_they_were_in_it_is_made_again(
    engine: NullEngine, tmp_path: Path, data: bytes, counts: tuple[int, int]
) -> None:
    async with open_house(tmp_path, engine.url) as rooms:
        file = await seal(rooms.intake, data)
        index = LineIndex.decode(rooms.blobs.read(index_key(file.id)))
        rooms.blobs.write(index_key(file.id), _write_as_before(index))
        with capture_logs() as logs:
            created = await rooms.turns.create(BatchRequest(OWNER, CHAT, file.id, skips_invalid_lines=True))
            batch = await wait_for_batch(rooms, created.id)
        assert (batch.counts.answered, batch.counts.failed) == counts
        assert [log["file"] for log in logs if "made again from the content" in log["event"]] == [file.id]


def _write_as_before(index: LineIndex) -> bytes:
    """As the release wrote it whose index held requests only, doubled ones too."""
    kept = [number for number in range(len(index)) if index.custom_id_json(number) != b"null"]
    header = msgspec.json.encode({"lines": len(kept), "model_names": ["m"], "custom_ids_size_bytes": 0})
    content = b"BFINDEX4" + len(header).to_bytes(4, "little") + header + bytes(len(kept) * 77)
    return content + zlib.crc32(content).to_bytes(4, "little")


async def test_those_without_a_place_are_cancelled_like_others(engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(hold=True)
    async with open_house(tmp_path, engine.url, dispatch__cancel_grace_s=0.0) as rooms:
        created = await create_batch(rooms, DATA, skips_invalid_lines=True)
        await rooms.turns.cancel(created.id, OWNER)
        batch = await wait_for_batch(rooms, created.id)
        assert batch.state is State.CANCELLED
        assert len(read(rooms, batch.error_file_id)) + len(read(rooms, batch.output_file_id)) == 12


async def test_thousands_of_them_cost_one_pass(engine: NullEngine, tmp_path: Path) -> None:
    lines = [request_line(number % 700) if number % 3 else b"{" for number in range(3000)]
    async with open_house(tmp_path, engine.url) as rooms:
        batch = await run_batch(rooms, b"\n".join(lines))
        output, errors = read(rooms, batch.output_file_id), read(rooms, batch.error_file_id)
        assert (len(output), len(errors)) == (batch.counts.answered, batch.counts.failed)
        assert len(output) + len(errors) == 3000
        assert len({each["custom_id"] for each in output}) == len(output)
        assert [each["error"]["line"] for each in errors] == sorted({each["error"]["line"] for each in errors})
        first: dict[bytes, int] = {}
        for number, each_line in enumerate(lines, start=1):
            first.setdefault(each_line, number)
        for error in errors:
            if error["custom_id"] is not None:
                told = first[lines[error["error"]["line"] - 1]]
                assert error["error"]["message"].endswith(f"is used by line {told} already.")
