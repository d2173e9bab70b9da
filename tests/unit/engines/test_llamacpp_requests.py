"""What is set right before and after llama.cpp's server."""

import msgspec
import pytest

from backfill.engines import Refused
from backfill.engines.llamacpp.requests import Plan, merge_answers, name_model, plan_calls


def plan(**members: object) -> Plan:
    found = plan_calls(msgspec.json.encode(members))
    assert isinstance(found, Plan)
    return found


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"image_url"}]}],"n":1}',
        b'{"model":"m","prompt":[1,2,3]}',
        b'{"model":"m","prompt":["one"],"n":null}',
        b'{"model":"m","prompt":"one","n":"two"}',
        b'{"model":"m"}',
    ],
)
def test_a_single_call_keeps_its_bytes(body: bytes) -> None:
    assert plan_calls(body) == Plan("m", (body,), is_streamed=True)


def test_choices_become_calls_with_their_own_seed() -> None:
    found = plan(model="m", messages=[], n=3, seed=7, temperature=1.5)
    calls = [msgspec.json.decode(body) for body in found.bodies]
    assert [call["seed"] for call in calls] == [7, 8, 9]
    assert {call["n"] for call in calls} == {1}
    assert {call["temperature"] for call in calls} == {1.5}
    assert found.choices == 3


def test_prompts_become_calls() -> None:
    found = plan(prompt=["a", [1, 2]], n=2)
    assert [msgspec.json.decode(body)["prompt"] for body in found.bodies] == ["a", "a", [1, 2], [1, 2]]
    assert found.model is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://10.0.0.1/x"}}]}]}',
        b'{"messages":[{"role":"user","content":[{"type":"image\\u005furl","image_url":{"url":"http://10.0.0.1/x"}}]}]}',
        b'{"messages":[{"role":"user","content":[{"type":"text","text":""},{"type":"input_audio"}]}]}',
        b'{"messages":[{"role":"user","content":["x"]}]}',
        b'{"messages":' + b"[" * 9000 + b"]" * 9000 + b"}",
        b'{"messages":"\xff"}',
        b"[]",
        b'{"messages":[],"n":129}',
        b'{"prompt":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"],"n":128}',
    ],
)
def test_what_the_engine_must_not_see(body: bytes) -> None:
    found = plan_calls(body)
    assert isinstance(found, Refused)
    assert found.status == 400
    assert msgspec.json.decode(found.body)["error"]["message"]


def make_answer(text: str, prompt_tokens: int, completion_tokens: int) -> bytes:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "text": text}
    return msgspec.json.encode({"id": "x", "choices": [choice], "usage": usage, "timings": {"a": 1}})


def test_merging_counts_a_prompt_once_and_every_answer() -> None:
    answers = [make_answer("a", 5, 1), make_answer("b", 5, 2), make_answer("c", 7, 3), make_answer("d", 7, 4)]
    merged = msgspec.json.decode(merge_answers(answers, choices=2))
    assert [(choice["index"], choice["text"]) for choice in merged["choices"]] == list(enumerate("abcd"))
    assert merged["usage"]["prompt_tokens"] == 12
    assert merged["usage"]["completion_tokens"] == 10
    assert merged["usage"]["total_tokens"] == 22
    assert "timings" not in merged


def test_an_answer_without_choices_cannot_be_merged() -> None:
    with pytest.raises(ValueError):
        merge_answers([b"{}", b"{}"], choices=2)


def test_the_model_is_named_as_asked() -> None:
    answer = b'{"choices":[{"text":"\\"model\\":\\"alias\\""}],"model":"alias","usage":{}}'
    named = msgspec.json.decode(name_model(answer, "alias", 'a "b"'))
    assert named["model"] == 'a "b"'
    assert named["choices"][0]["text"] == '"model":"alias"'
