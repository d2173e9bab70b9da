"""The table from HTTP to replies, row by row; what is inside a 2xx is in test_answer."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Usage
from backfill.engines import Answered, Lost, LostReason, Refused
from backfill.engines.interpret import interpret

CHAT = "/v1/chat/completions"
ERROR = b'{"error":{"message":"too much","type":"x"}}'


@pytest.mark.parametrize(
    ("status", "body", "reason", "never_sent"),
    [
        (200, b"", LostReason.BAD_ANSWER, False),
        (200, b"[1]", LostReason.BAD_ANSWER, False),
        (200, b'{"a":1}{"b":2}', LostReason.BAD_ANSWER, False),
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
    reply = interpret(CHAT, status, {}, body)
    assert isinstance(reply, Lost)
    assert reply.reason is reason
    assert reply.never_sent is never_sent
    assert reply.status == status


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422, 451])
def test_refused(status: int) -> None:
    assert interpret(CHAT, status, {}, ERROR) == Refused(status, ERROR)


@pytest.mark.parametrize("body", [b"no such page", b'"no such page"', b'["no such page"]', b"<p>no such page</p>"])
def test_a_refusal_without_an_object_gets_one(body: bytes) -> None:
    reply = interpret(CHAT, 404, {}, body)
    assert isinstance(reply, Refused)
    error = msgspec.json.decode(reply.body)["error"]
    assert "no such page" in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_pretty_answer_becomes_one_line() -> None:
    body = b'{\r\n  "choices": [\n{"message": {"content": "one\\ntwo"}}],\n  "usage": null\n}\n'
    reply = interpret(CHAT, 200, {}, body)
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
    body = b'{"choices":[{"message":{}}],"usage":' + usage + b"}"
    assert interpret(CHAT, 200, {}, body) == Answered(200, body, counted)


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
        ({"retry-after": "9" * 5000}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": f"Wed, 21 Oct {'9' * 20} 07:28:00 GMT"}, None),
        ({"retry-after": f"Wed, 21 Oct 2015 07:28:00 +{'9' * 20}"}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int, headers: dict[str, str], seconds: float | None) -> None:
    reply = interpret(CHAT, status, headers, b"")
    assert isinstance(reply, Lost)
    assert reply.retry_after_s == seconds


def test_retry_after_a_date_to_come() -> None:
    moment = datetime.now(UTC) + timedelta(minutes=10)
    reply = interpret(CHAT, 429, {"retry-after": format_datetime(moment, usegmt=True)}, b"")
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
    reply = interpret(CHAT, 500, {}, body)
    assert isinstance(reply, Lost)
    assert reply.message == "The engine answered HTTP 500: out of memory"


def test_words_do_not_steer_a_terminal() -> None:
    reply = interpret(CHAT, 500, {}, b'{"error":"\\u001b[2Jout\\u2028of\\u0000 memory\\u202e"}')
    assert isinstance(reply, Lost)
    assert reply.message == "The engine answered HTTP 500: [2Jout of memory"


def test_long_words_are_cut() -> None:
    reply = interpret(CHAT, 500, {}, b"x" * 100_000)
    assert isinstance(reply, Lost)
    assert len(reply.message) < 600


@pytest.mark.parametrize("message", [b"\\ud83d cut", b"half \xf0\x9f", b"1e999", b"[" * 700 + b"]" * 700])
def test_a_refusal_can_always_be_read_again(message: bytes) -> None:
    for body in (b'{"error":{"message":"%b"}}' % message, b'{"error":{"message":%b}}' % message):
        reply = interpret(CHAT, 400, {}, body)
        assert isinstance(reply, Refused)
        assert isinstance(msgspec.json.decode(reply.body), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["choices", "error", "message", "usage", "a"]), inner)
    ),
)


@given(st.integers(200, 599), st.binary() | JSON.map(msgspec.json.encode), st.text())
def test_nothing_an_engine_says_can_hurt(status: int, body: bytes, header: str) -> None:
    reply = interpret(CHAT, status, {"retry-after": header}, body)
    if isinstance(reply, (Answered, Refused)):
        assert isinstance(msgspec.json.decode(reply.body), dict)
        assert b"\n" not in reply.body
    else:
        assert "\n" not in reply.message
