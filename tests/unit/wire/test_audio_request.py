"""Requests for audio endpoints: what is wrong is named, and what is right becomes the fields of a form, each once."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.wire import find_audio_problem, list_form_fields

CLIP = {"file": "https://example.com/a.wav"}


def fields_of(**members: Any) -> list[tuple[str, str]]:
    body = json.dumps(CLIP | members).encode()
    assert find_audio_problem(body) is None
    return list_form_fields(body)


def test_members_are_fields() -> None:
    fields = fields_of(
        model="openai/whisper-large-v3",
        language="en",
        prompt="",
        response_format="verbose_json",
        temperature=0,
        timestamp_granularities=["word", "segment"],
        diarize=True,
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
        hotwords=None,
    )
    assert fields == [
        ("model", "openai/whisper-large-v3"),
        ("language", "en"),
        ("prompt", ""),
        ("response_format", "verbose_json"),
        ("temperature", "0"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
        ("diarize", "true"),
        ("chunking_strategy[type]", "server_vad"),
        ("chunking_strategy[threshold]", "0.5"),
    ]


def test_what_engines_would_misunderstand_is_said_as_they_understand_it() -> None:
    # Together's word for: find it out. Engines take it for the name of a language.
    assert fields_of(language="auto") == []
    # Without the brackets it is passed over.
    assert fields_of(timestamp_granularities="word") == [("timestamp_granularities[]", "word")]
    assert list_form_fields(b'{"file":"a","file_url":"b","stream":false,"model":"m"}') == [("model", "m")]


@pytest.mark.parametrize(
    ("member", "value", "told"),
    [
        ("model", 7, "a string"),
        ("language", "e", 'a language such as "en", or "auto"; got "e"'),
        ("language", "en\r\nX: y", 'a language such as "en"'),
        ("language", ["en"], "a language"),
        ("prompt", {}, "a string"),
        ("response_format", "xml", 'one of json, verbose_json, text, srt, vtt, diarized_json; got "xml"'),
        ("response_format", {"type": "json_object"}, "one of json"),
        ("temperature", 1.5, 'a number from 0 to 1; got "1.5"'),
        ("temperature", True, "a number from 0 to 1"),
        ("temperature", "0", "a number from 0 to 1"),
        ("timestamp_granularities", ["words"], 'a list of "word" or "segment" or both'),
        ("timestamp_granularities", [], "a list"),
        ("timestamp_granularities", [1], "a list"),
    ],
)
def test_what_is_wrong_is_named(member: str, value: object, told: str) -> None:
    problem = find_audio_problem(json.dumps(CLIP | {member: value}).encode())
    assert problem is not None
    assert (problem.code, problem.param) == ("invalid_request", f"body.{member}")
    assert problem.message.startswith(f"body.{member} must be {told}"), problem.message


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a":1}x', b'{"a":' + b"[" * 100_000])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    problem = find_audio_problem(body)
    assert problem is not None
    assert problem.param == "body"


@pytest.mark.parametrize("name", ['a"b', "a\r\nb", "", "ä", "a b"])
def test_a_member_that_is_no_field_s_name_is_refused(name: str) -> None:
    for members in ({name: "x"}, {"a": {name: "x"}}):
        problem = find_audio_problem(json.dumps(CLIP | members).encode())
        assert (problem is None) == (name == "" and "a" in members)


def test_what_is_nested_beyond_reason_is_refused() -> None:
    nested = b'{"a":' * 600 + b"1" + b"}" * 600
    problem = find_audio_problem(nested)
    assert problem is None or problem.param == "body"


NAMES = st.text(st.sampled_from("abc_-[]."), min_size=1, max_size=6).filter(
    lambda name: name not in {"model", "language", "prompt", "response_format", "temperature"}
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def count_leaves(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(count_leaves, value.values()))
    if isinstance(value, list):
        return sum(map(count_leaves, value))
    return value is not None


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_every_value_becomes_one_field_and_none_is_invented(members: dict[str, Any]) -> None:
    body = json.dumps(members).encode()
    assert find_audio_problem(body) is None
    fields = list_form_fields(body)
    assert len(fields) == count_leaves(members)
    # What is no text is written as JSON has it, so that it reads as it was.
    for name, value in members.items():
        own = [text for field, text in fields if field == name]
        if isinstance(value, str):
            assert value in own
        elif value is not None and not isinstance(value, (list, dict)):
            assert msgspec.json.encode(value).decode() in own
