import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from backfill.batch import BatchProblem
from backfill.errors import InvalidInput
from backfill.tables import AnswerSchema, RequestBuilder, RequestPlan, Unsendable
from backfill.wire import find_request_problem, parse_line


def build(plan: RequestPlan, *values: Any, row: int = 0) -> dict[str, Any]:
    line = RequestBuilder(plan).build(row, values)
    assert line.endswith(b"\n")
    parsed = parse_line(line[:-1], 64)
    assert not isinstance(parsed, BatchProblem)
    assert find_request_problem(parsed.shape, plan.endpoint, has_model=True) is None
    found: dict[str, Any] = json.loads(line)
    method = "FILE" if plan.audio_column is not None else "POST"
    assert (found["method"], found["url"]) == (method, plan.endpoint)
    return found


def test_a_row_becomes_a_chat_request() -> None:
    schema = AnswerSchema.of_columns("label:enum(pos,neg)")
    plan = RequestPlan(
        prompt="Classify {text} of {who}, {text}",
        system='Be brief: {"no": "place"}',
        schema=schema,
        model="m",
        parameters={"temperature": 0, "stop": ["\n"]},
    )
    assert RequestBuilder(plan).columns == ("text", "who")
    line = build(plan, 'good "x"\n', "Ann", row=7)
    assert line["custom_id"] == "row-7"
    assert line["body"] == {
        "model": "m",
        "messages": [
            {"role": "system", "content": 'Be brief: {"no": "place"}'},
            {"role": "user", "content": 'Classify good "x"\n of Ann, good "x"\n'},
        ],
        "temperature": 0,
        "stop": ["\n"],
        "response_format": schema.response_format,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (True, "true"),
        (3, "3"),
        (0.1, "0.1"),
        ("=SUM(A1)", "=SUM(A1)"),
        ("\x00\u2028😀", "\x00\u2028😀"),
        (["a", None, 1], '["a",null,1]'),
        ({"a": {"b": dt.date(2026, 11, 26)}}, '{"a":{"b":"2026-11-26"}}'),
        (dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC), "2026-11-26T12:00:00+00:00"),
        (Decimal("1.10"), "1.10"),
        (b"caf\xc3\xa9", "café"),
    ],
)
def test_values_of_any_kind_have_their_text(value: object, text: str) -> None:
    plan = RequestPlan(prompt="<{v}>")
    assert build(plan, value)["body"]["messages"][0]["content"] == f"<{text}>"
    assert RequestBuilder(plan).find_obstacle([value]) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xd8", "column 'v' holds binary data"),
        ("\ud800", "column 'v' holds half of a surrogate pair"),
        (["\ud800"], "column 'v'"),
        (object(), "column 'v' holds a value of type object"),
    ],
)
def test_a_value_without_a_text_keeps_its_row_from_being_sent(value: object, reason: str) -> None:
    builder = RequestBuilder(RequestPlan(prompt="{v}"))
    with pytest.raises(Unsendable) as caught:
        builder.build(0, [value])
    assert reason in str(caught.value)
    assert builder.find_obstacle([value]) == str(caught.value)


def test_images_stand_behind_the_text() -> None:
    plan = RequestPlan(prompt="What is {it}?", image_column="photo")
    content = build(plan, "this", "https://a/b.png")["body"]["messages"][0]["content"]
    assert content == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
    ]
    assert len(build(plan, "this", ["a.png", "b.png"])["body"]["messages"][0]["content"]) == 3
    nothings: tuple[Any, ...] = (None, "", [])
    for nothing in nothings:
        assert build(plan, "this", nothing)["body"]["messages"][0]["content"] == "What is this?"


def test_a_column_may_name_rows() -> None:
    plan = RequestPlan(prompt="{text}", id_column="key")
    assert build(plan, "x", 17)["custom_id"] == "17"
    builder = RequestBuilder(plan)
    for bad in (None, "", "x" * 65):
        assert "column 'key' holds" in (builder.find_obstacle(["x", bad]) or "")


@pytest.mark.parametrize(("endpoint", "member"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
def test_other_endpoints_have_the_prompt_where_they_want_it(endpoint: str, member: str) -> None:
    plan = RequestPlan(prompt="say {x}", endpoint=endpoint, parameters={"user": "u"})
    assert build(plan, "y")["body"] == {member: "say y", "user": "u"}


def test_audio_is_a_file_with_or_without_a_prompt() -> None:
    endpoint = "/v1/audio/transcriptions"
    plan = RequestPlan(endpoint=endpoint, audio_column="clip", parameters={"response_format": "verbose_json"})
    body = {"file": "https://a/b.wav", "response_format": "verbose_json"}
    assert build(plan, "https://a/b.wav")["body"] == body
    assert RequestBuilder(plan).find_obstacle([None]) == "column 'clip' holds no audio"
    plan = RequestPlan(prompt="About {what}", endpoint=endpoint, audio_column="clip")
    assert build(plan, "birds", "b.wav")["body"] == {"file": "b.wav", "prompt": "About birds"}


@pytest.mark.parametrize(
    ("plan", "param"),
    [
        (RequestPlan(prompt="the same"), "prompt"),
        (RequestPlan(), "prompt"),
        (RequestPlan(prompt="{a}", endpoint="/v1/responses"), "endpoint"),
        (RequestPlan(prompt="{a}", endpoint="/v1/embeddings", system="x"), "endpoint"),
        (RequestPlan(prompt="{a}", parameters={"messages": []}), "parameters"),
        (RequestPlan(prompt="{a}", parameters={"stream": True}), "parameters"),
        (RequestPlan(prompt="{a}", audio_column="b"), "endpoint"),
        (RequestPlan(prompt="{a}", endpoint="/v1/audio/translations"), "audio"),
    ],
)
def test_a_plan_without_sense_is_refused(plan: RequestPlan, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RequestBuilder(plan)
    assert caught.value.param == param
