"""A response object has what clients insist on, whatever the server left out."""

import json

import pytest

from backfill.engines.response_object import complete_response

# As llama-server answers.
SPARSE = (
    b'{"id":"resp_1","object":"response","created_at":1,"model":"m","status":"completed","output":[ {"x": 1.50} ],'
    b'"usage":{"input_tokens":7,"output_tokens":2,"total_tokens":9,"input_tokens_details":{"cached_tokens":3}}}'
)
REQUEST = b'{"model":"m","input":"hi"}'


def test_what_is_lacking_is_filled_in() -> None:
    completed = json.loads(complete_response(SPARSE, REQUEST))
    assert (completed["parallel_tool_calls"], completed["tool_choice"], completed["tools"]) == (True, "auto", [])
    assert completed["usage"] == {
        "input_tokens": 7,
        "output_tokens": 2,
        "total_tokens": 9,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def test_how_tools_may_be_called_is_what_the_request_said() -> None:
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": True}
    said = {"tools": [tool], "tool_choice": {"type": "function", "name": "look_up"}, "parallel_tool_calls": False}
    completed = json.loads(complete_response(SPARSE, json.dumps(said).encode()))
    assert {name: completed[name] for name in said} == said


def test_every_other_member_keeps_its_bytes() -> None:
    assert b'"output":[ {"x": 1.50} ]' in complete_response(SPARSE, REQUEST)


def test_an_answer_that_lacks_nothing_comes_back_as_it_is() -> None:
    whole = complete_response(SPARSE, REQUEST)
    spaced = whole.replace(b'"tools":[]', b'"tools" :  [ ]')
    assert complete_response(spaced, b'{"tools":[{"type":"function"}]}') == spaced


@pytest.mark.parametrize("usage", [b"null", b"[]", b"7"])
def test_usage_that_is_not_told_is_not_made_up(usage: bytes) -> None:
    answer = b'{"output":[],"usage":' + usage + b"}"
    assert json.loads(complete_response(answer, REQUEST))["usage"] == json.loads(usage)


@pytest.mark.parametrize("answer", [b"", b"[1]", b'{"error":{}}', b"\xff", b"[" * 9000])
def test_what_is_no_response_object_comes_back_as_it_is(answer: bytes) -> None:
    assert complete_response(answer, REQUEST) == answer


@pytest.mark.parametrize("request_body", [b"", b"\xff", b"[]", b'{"tools":7}', b'{"tool_choice":null}'])
def test_odd_requests_echo_nothing(request_body: bytes) -> None:
    completed = json.loads(complete_response(SPARSE, request_body))
    assert (completed["parallel_tool_calls"], completed["tool_choice"], completed["tools"]) == (True, "auto", [])
