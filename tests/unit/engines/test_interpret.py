"""The table from HTTP to replies, row by row."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Usage
from backfill.engines import Answered, Lost, LostReason, Refused
from backfill.engines.interpret import interpret

ERROR = b'{"error":{"message":"too much","type":"x"}}'


@pytest.mark.parametrize(
    ("status", "body", "reason", "never_sent"),
    [
        (200, b"", LostReason.BAD_ANSWER, False),
        (200, b"[1]", LostReason.BAD_ANSWER, False),
        (200, b'{"a":1}{"b":2}', LostReason.BAD_ANSWER, False),
        (200, b'{"a":"\xff"}', LostReason.BAD_ANSWER, False),
        (200, b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}", LostReason.BAD_ANSWER, False),
        (200, b"data: {}\n\n", LostReason.BAD_ANSWER, False),
        (204, b"", LostReason.BAD_ANSWER, False),
        (302, b"", LostReason.UNREACHABLE, True),
        (401, ERROR, LostReason.UNREACHABLE, True),
        (403, ERROR, LostReason.UNREACHABLE, True),
        (408, ERROR, LostReason.TIMEOUT, False),
        (409, ERROR, LostReason.SERVER_ERROR, False),
        (425, ERROR, LostReason.SERVER_ERROR, False),
        (429, ERROR, LostReason.RATE_LIMITED, False),
        (500, ERROR, LostReason.SERVER_ERROR, False),
        (503, ERROR, LostReason.SERVER_ERROR, False),
        (503, b'{"error":{"code":503,"message":"Loading model"}}', LostReason.UNREACHABLE, True),
        (599, b"", LostReason.SERVER_ERROR, False),
    ],
)
def test_lost(status: int, body: bytes, reason: LostReason, never_sent: bool) -> None:
    reply = interpret(status, {}, body)
    assert isinstance(reply, Lost)
    assert reply.reason is reason
    assert reply.never_sent is never_sent
    assert reply.status == status


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 451])
def test_refused(status: int) -> None:
    assert interpret(status, {}, ERROR) == Refused(status, ERROR)


@pytest.mark.parametrize("body", [b"no such page", b'"no such page"', b'["no such page"]', b"<p>no such page</p>"])
def test_a_refusal_without_an_object_gets_one(body: bytes) -> None:
    reply = interpret(404, {}, body)
    assert isinstance(reply, Refused)
    error = msgspec.json.decode(reply.body)["error"]
    assert "no such page" in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_pretty_answer_becomes_one_line() -> None:
    body = b'{\r\n  "text": "one\\ntwo",\n  "usage": null\n}\n'
    reply = interpret(200, {}, body)
    assert isinstance(reply, Answered)
    assert b"\n" not in reply.body
    assert b"\r" not in reply.body
    assert msgspec.json.decode(reply.body) == msgspec.json.decode(body)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (b'{"prompt_tokens":5}', Usage(5, 0, 0)),
        (b'{"prompt_tokens":5,"completion_tokens":null,"prompt_tokens_details":null}', Usage(5, 0, 0)),
        (b'{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":null}}', Usage(5, 0, 0)),
        (b'{"prompt_tokens":"5"}', Usage()),
        (b'{"prompt_tokens":-5}', Usage()),
        (b'{"prompt_tokens":99999999999999999999999}', Usage()),
        (b"[]", Usage()),
        (b"null", Usage()),
    ],
)
def test_usage_in_any_shape(usage: bytes, counted: Usage) -> None:
    body = b'{"usage":' + usage + b"}"
    assert interpret(200, {}, body) == Answered(200, body, counted)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int, headers: dict[str, str], seconds: float | None) -> None:
    reply = interpret(status, headers, b"")
    assert isinstance(reply, Lost)
    assert reply.retry_after_s == seconds


def test_retry_after_a_date_to_come() -> None:
    moment = datetime.now(UTC) + timedelta(minutes=10)
    reply = interpret(429, {"retry-after": format_datetime(moment, usegmt=True)}, b"")
    assert isinstance(reply, Lost)
    assert reply.retry_after_s is not None
    assert 500 < reply.retry_after_s <= 600


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"out of\\n memory"}}',
        b'{"error":"out of memory"}',
        b'{"message":"out of memory"}',
        b'{"detail":"out of memory"}',
        b"out of memory\n",
    ],
)
def test_the_engines_own_words_are_kept(body: bytes) -> None:
    reply = interpret(500, {}, body)
    assert isinstance(reply, Lost)
    assert reply.message == "The engine answered HTTP 500: out of memory"


def test_long_words_are_cut() -> None:
    reply = interpret(500, {}, b"x" * 100_000)
    assert isinstance(reply, Lost)
    assert len(reply.message) < 600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "usage", "a"]), inner),
)


@given(st.integers(200, 599), st.binary() | JSON.map(msgspec.json.encode), st.text())
def test_nothing_an_engine_says_can_hurt(status: int, body: bytes, header: str) -> None:
    reply = interpret(status, {"retry-after": header}, body)
    if isinstance(reply, (Answered, Refused)):
        assert isinstance(msgspec.json.decode(reply.body), dict)
        assert b"\n" not in reply.body
    else:
        assert "\n" not in reply.message
