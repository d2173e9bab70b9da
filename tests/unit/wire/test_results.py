"""A result is one line for every reader."""

import io
import json
from collections.abc import Callable

import pytest

from backfill.batch import Batch, Dialect, Outcome, State
from backfill.wire.results import render_answer, render_failure, render_rest

SEPARATORS = "\u2028\u2029\x85"
CUSTOM_ID = f'"id{SEPARATORS}é\\u2028"'.encode()
BODY = f'{{"text" : "one{SEPARATORS}two “é” \\u2028 😀","n":1.0}}'.encode()


@pytest.fixture(params=Dialect)
def batch(request: pytest.FixtureRequest) -> Batch:
    return Batch(
        id="6c1e1b0e-7a35-4a52-9be1-0d7d0e9b8a11",
        owner="",
        dialect=request.param,
        state=State.EXPIRING,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        input_file_id="file-1",
        input_size_bytes=1,
        created_at_ms=0,
        deadline_at_ms=1,
    )


RENDERERS: list[Callable[[Batch], bytes]] = [
    lambda batch: render_answer(batch, 3, CUSTOM_ID, 200, BODY),
    lambda batch: render_failure(batch, 3, CUSTOM_ID, Outcome.REFUSED, 400, b'{"error":{"message":%b}}' % CUSTOM_ID),
    lambda batch: render_failure(
        batch, 3, CUSTOM_ID, Outcome.EXHAUSTED, 0, b'{"error":{"message":%b,"code":"timeout"}}' % CUSTOM_ID
    ),
    lambda batch: render_rest(batch, 3, CUSTOM_ID),
]


@pytest.mark.parametrize("render", RENDERERS)
def test_no_reader_sees_two_lines(batch: Batch, render: Callable[[Batch], bytes]) -> None:
    line = render(batch)
    assert len(line.decode().splitlines()) == 1
    assert len(io.TextIOWrapper(io.BytesIO(line), encoding="utf-8").readlines()) == 1
    assert json.loads(line)["custom_id"] == json.loads(CUSTOM_ID)


def test_no_other_byte_is_changed(batch: Batch) -> None:
    line = render_answer(batch, 3, b'"a"', 200, BODY)
    escaped = BODY
    for separator in SEPARATORS:
        escaped = escaped.replace(separator.encode(), b"\\u%04x" % ord(separator))
    assert escaped != BODY
    assert b'"body":' + escaped in line
    assert json.loads(line)["response"]["body"] == json.loads(BODY)


@pytest.mark.parametrize(
    "body", [b"\xff", b"[1]", b'{"error":1e999}', b'{"error":"\\ud83d"}', b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"]
)
def test_a_batch_ends_whatever_its_journal_holds(batch: Batch, body: bytes) -> None:
    json.loads(render_failure(batch, 3, b'"a"', Outcome.REFUSED, 400, body))
