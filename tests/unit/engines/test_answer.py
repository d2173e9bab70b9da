"""What is inside a 2xx: a result of the endpoint, an error, or neither."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Usage
from backfill.engines import Answered, Lost, LostReason, Refused, count_usage
from backfill.engines.interpret import interpret

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
RESULT = b'{"choices":[{"message":{"content":"%b"}}],"usage":{"prompt_tokens":3}}'


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        # A tool call, as vLLM and OpenAI have it; an answer that is nothing but its least.
        (CHAT, b'{"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{}]}}]}'),
        (CHAT, b'{"choices":[{"message":{}},{"message":{}}],"error":null}'),
        (CHAT, b'{"choices":[{"message":{},"error":null}],"error":{}}'),
        (COMPLETIONS, b'{"choices":[{"text":""}]}'),
        (EMBEDDINGS, b'{"data":[{"embedding":[0.5]},{"embedding":"AAAAPw=="}]}'),
        # No item: every token went into reasoning, and the limit came first.
        (RESPONSES, b'{"object":"response","status":"incomplete","error":null,"output":[]}'),
    ],
)
def test_results(endpoint: str, body: bytes) -> None:
    assert interpret(endpoint, 200, {}, body) == Answered(200, body, Usage())


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, b"{}"),
        (CHAT, b'{"choices":null}'),
        (CHAT, b'{"choices":[]}'),
        (CHAT, b'{"choices":{}}'),
        (CHAT, b'{"choices":[7]}'),
        (CHAT, b'{"choices":[{}]}'),
        (CHAT, b'{"choices":[{"text":"of the other endpoint"}]}'),
        (CHAT, b'{"choices":[{"message":{}},{"message":null}]}'),
        (CHAT, b'{"choices":[],"usage":{"prompt_tokens":"odd"}}'),
        (COMPLETIONS, b'{"choices":[{"message":{}}]}'),
        (COMPLETIONS, b'{"choices":[{"text":null}]}'),
        (EMBEDDINGS, b'{"data":[]}'),
        (EMBEDDINGS, b'{"data":[{}]}'),
        (EMBEDDINGS, b'{"data":[{"embedding":[1]},{"embedding":null}]}'),
        (RESPONSES, b'{"output":null}'),
        (RESPONSES, b'{"choices":[{"message":{}}]}'),
    ],
)
def test_what_is_no_result_is_no_answer(endpoint: str, body: bytes) -> None:
    reply = interpret(endpoint, 200, {}, body)
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.BAD_ANSWER
    assert reply.message.startswith("The engine's answer has no ")


def test_what_it_says_instead_is_told() -> None:
    reply = interpret(CHAT, 200, {}, b'{"detail":"the model is asleep"}')
    assert isinstance(reply, Lost)
    assert reply.message == "The engine's answer has no choices with a message: the model is asleep"


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [
        (b'{"message":"m","code":502}', LostReason.SERVER_ERROR, 502),
        (b'{"message":"m","code":"503"}', LostReason.SERVER_ERROR, 503),
        (b'{"message":"m","code":429}', LostReason.RATE_LIMITED, 429),
        (b'{"message":"m","type":"rate_limit_error"}', LostReason.RATE_LIMITED, 429),
        (b'{"message":"m","status":"RESOURCE_EXHAUSTED","code":8}', LostReason.RATE_LIMITED, 429),
        (b'{"message":"m","code":"rate_limit_exceeded","type":"tokens"}', LostReason.RATE_LIMITED, 429),
        (b'{"message":"m","type":"overloaded_error"}', LostReason.SERVER_ERROR, 503),
        (b'{"message":"m","type":"InternalServerError"}', LostReason.SERVER_ERROR, 500),
        (b'{"message":"m","code":"server_error"}', LostReason.SERVER_ERROR, 500),
        (b'{"message":"m","code":408}', LostReason.TIMEOUT, 408),
        (b'{"message":"m","code":401}', LostReason.UNREACHABLE, 401),
        # Nobody knows what these stand for.
        (b'{"message":"m","code":42}', LostReason.SERVER_ERROR, 500),
        (b'{"message":"m","code":true}', LostReason.SERVER_ERROR, 500),
        (b'{"message":"m","code":"\xc2\xb2\xc2\xb2\xc2\xb2"}', LostReason.SERVER_ERROR, 500),
        (b'{"message":"m"}', LostReason.SERVER_ERROR, 500),
        (b'"m"', LostReason.SERVER_ERROR, 500),
        (b'["m"]', LostReason.SERVER_ERROR, 500),
        (b"true", LostReason.SERVER_ERROR, 500),
    ],
)
@pytest.mark.parametrize(
    "around",
    [b'{"error":%b}', b'{"choices":[{"message":{}}],"error":%b}', b'{"choices":[{"error":%b,"message":{}}]}'],
)
def test_an_error_inside_decides_like_a_status(around: bytes, error: bytes, reason: LostReason, status: int) -> None:
    reply = interpret(CHAT, 200, {"retry-after": "7"}, around % error)
    assert isinstance(reply, Lost)
    assert (reply.reason, reply.status) == (reason, status)
    if reason is not LostReason.UNREACHABLE:
        assert reply.message.startswith(f"The engine answered HTTP 200 with error {status}")
        assert reply.retry_after_s == 7


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (b'{"message":"too long","code":400}', 400),
        (b'{"message":"too long","code":"422"}', 422),
        (b'{"message":"too long","code":"context_length_exceeded","type":"invalid_request_error"}', 400),
        (b'{"message":"too long","code":null,"type":"BadRequestError"}', 400),
        (b'{"message":"too long","type":"NotFoundError"}', 404),
    ],
)
def test_an_error_inside_that_is_the_requests_own_refuses_it(error: bytes, status: int) -> None:
    reply = interpret(CHAT, 200, {}, b'{"error":%b}' % error)
    assert isinstance(reply, Refused)
    assert reply.status == status
    assert msgspec.json.decode(reply.body) == {"error": json.loads(error)}


def test_an_error_object_as_vllm_had_it() -> None:
    reply = interpret(CHAT, 200, {}, b'{"object":"error","message":"too long","type":"BadRequestError","code":400}')
    assert isinstance(reply, Refused)
    assert msgspec.json.decode(reply.body)["error"]["message"] == "too long"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"cut \\ud83d", b"cut \\ud83d"),
        (b"\\\\ud83d \\ud83d\\ude00 \\uDE00", b"\\\\ud83d \\ud83d\\ude00 \\uDE00"),
        (b"cut \xed\xa0\xbd", b"cut \\ud83d"),
        (b"\xed\xa0\xbd\xed\xb8\x80 \xed\x9f\xbf", b"\\ud83d\\ude00 \xed\x9f\xbf"),
        (b"half \xf0\x9f\x98 done", "half \ufffd done".encode()),
        (b"\xff\\n", "\ufffd\\n".encode()),
    ],
)
def test_text_that_is_not_unicode_is_kept(said: bytes, kept: bytes) -> None:
    assert interpret(CHAT, 200, {}, RESULT % said) == Answered(200, RESULT % kept, Usage(3, 0, 0))
    assert count_usage(RESULT % kept) in (Usage(3, 0, 0), Usage())
    assert json.loads(RESULT % kept)


def test_numbers_that_json_does_not_have_become_null() -> None:
    body = (
        b'{"choices":[{"message":{"content":"NaN, \\"-Infinity\\", NaN"},"logprobs":[NaN, -Infinity,Infinity,-1.5]}],'
        b'"usage":{"prompt_tokens":3,"cost":NaN}}'
    )
    reply = interpret(CHAT, 200, {}, body)
    assert isinstance(reply, Answered)
    assert reply.usage == Usage(3, 0, 0)
    [choice] = msgspec.json.decode(reply.body)["choices"]
    assert choice["logprobs"] == [None, None, None, -1.5]
    assert choice["message"]["content"] == 'NaN, "-Infinity", NaN'


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{}}],"a":NaN',
        b'{"choices":[{"message":{}}],"a":Nothing}',
        b'NaN "' + b"\\" * 1001,
        b'{"a":"' + b"NaN" * 100_000,
        b'{"a":' + b"[" * 100_000 + b"NaN",
        b"\xed\xa0\xbd" * 1000,
    ],
)
def test_what_cannot_be_mended_is_lost(body: bytes) -> None:
    reply = interpret(CHAT, 200, {}, body)
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.BAD_ANSWER


def test_a_byte_order_mark_is_no_part_of_an_answer() -> None:
    whole = RESULT % b"x"
    assert interpret(CHAT, 200, {}, b"\xef\xbb\xbf" + whole) == Answered(200, whole, Usage(3, 0, 0))


@given(st.lists(st.floats() | st.text(st.characters(exclude_categories=[])), max_size=6))
def test_whatever_python_encodes_is_kept(values: list[float | str]) -> None:
    answer = {"choices": [{"message": {"content": "x", "more": values}}]}
    for body in (json.dumps(answer).encode(), json.dumps(answer, ensure_ascii=False).encode(errors="surrogatepass")):
        reply = interpret(CHAT, 200, {}, body)
        assert isinstance(reply, Answered)
        kept = json.loads(reply.body)["choices"][0]["message"]["more"]
        wanted = [v if isinstance(v, str) or abs(v) < float("inf") else None for v in values]
        assert json.dumps(kept) == json.dumps(wanted)
