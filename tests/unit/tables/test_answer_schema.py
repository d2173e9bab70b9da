from typing import Any, Literal

import pytest
from pydantic import BaseModel

from backfill.errors import InvalidInput
from backfill.tables import AnswerSchema, Misfit


def test_a_column_list_becomes_a_strict_schema() -> None:
    schema = AnswerSchema.of_columns("label:enum(pos, neg), score:float, n:int?, tags:list[str], is it:bool, summary")
    assert [column.name for column in schema.columns] == ["label", "score", "n", "tags", "is it", "summary"]
    told = schema.response_format
    assert told["type"] == "json_schema"
    assert told["json_schema"]["strict"] is True
    assert told["json_schema"]["schema"] == {
        "type": "object",
        "properties": {
            "label": {"type": "string", "enum": ["pos", "neg"]},
            "score": {"type": "number"},
            "n": {"type": ["integer", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "is it": {"type": "boolean"},
            "summary": {"type": "string"},
        },
        "required": ["label", "score", "n", "tags", "is it", "summary"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"label":"pos","score":1,"tags":[]}', ["pos", 1.0, []]),
        ('{"tags":["a"],"score":null,"label":"neg","more":1}', ["neg", None, ["a"]]),
        ('```json\n{"label":"pos","score":0.5,"tags":[]}\n```', ["pos", 0.5, []]),
    ],
)
def test_values_are_taken_out_in_the_order_of_the_columns(text: str, values: list[Any]) -> None:
    schema = AnswerSchema.of_columns("label:enum(pos,neg), score:float?, tags:list[str]")
    assert list(schema.decode(text)) == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"label":"meh","score":1}', "label: invalid enum value 'meh'; it may be pos, neg"),
        ('{"label":"pos","score":"high"}', "score: expected `float`, got `str`"),
        ('{"label":"pos"}', "object missing required field `score`"),
        ("[1]", "expected `object`, got `array`"),
        ("Sure! It is positive.", "the answer is not JSON: there is no value where one should stand"),
        ('{"label":"pos","sco', "the answer is not JSON"),
        ("", "the answer is empty"),
        ('{"label":"pos","score":1}' + "]" * 3, "the answer is not JSON"),
        ("[" * 100_000, ""),
    ],
)
def test_what_does_not_fit_says_where(text: str, reason: str) -> None:
    with pytest.raises(Misfit, match=r"^[^\n]*$") as caught:
        AnswerSchema.of_columns("label:enum(pos,neg), score:float").decode(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_number_larger_than_a_column_holds_does_not_fit() -> None:
    with pytest.raises(Misfit, match="n: "):
        AnswerSchema.of_columns("n:int").decode('{"n":99999999999999999999}')


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("", "names no column"),
        ("a:strr", "unknown type 'strr' for 'a'"),
        ("a, a", "names 'a' twice"),
        (":int", "no name"),
        ("a:enum(x", "bracket"),
        ("a:enum(x,,y)", "empty or doubled"),
        ("a:list[thing]", "unknown type 'thing' for 'a'"),
    ],
)
def test_a_wrong_column_list_is_refused(spec: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        AnswerSchema.of_columns(spec)
    assert told in caught.value.message
    assert caught.value.param == "columns"


def test_the_properties_of_a_json_schema_are_columns() -> None:
    schema = AnswerSchema.of_json_schema(
        {
            "type": "object",
            "$defs": {"Mood": {"type": "string", "enum": ["up", "down"]}},
            "properties": {
                "mood": {"$ref": "#/$defs/Mood"},
                "score": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "who": {"type": "object"},
                "names": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["mood"],
        }
    )
    assert [column.type.kind for column in schema.columns] == ["str", "float", "json", "list"]
    assert list(schema.decode('{"mood":"up","who":{"a":[1]}}')) == ["up", None, {"a": [1]}, None]
    with pytest.raises(Misfit, match="mood"):
        schema.decode('{"mood":"sideways"}')
    # An engine that enforces strict schemas demands every property to be required.
    assert "strict" not in schema.response_format["json_schema"]


@pytest.mark.parametrize("schema", [{}, [], {"type": "array"}, {"properties": {}}, {"properties": [1]}, None])
def test_a_schema_of_no_object_is_refused(schema: object) -> None:
    with pytest.raises(InvalidInput):
        AnswerSchema.of_json_schema(schema)


class Verdict(BaseModel):
    label: Literal["pos", "neg"]
    score: float | None = None
    sources: dict[str, int] = {}


def test_a_pydantic_model_says_the_columns_and_checks_the_answers() -> None:
    schema = AnswerSchema.of_model(Verdict)
    assert [(column.name, column.type.kind) for column in schema.columns] == [
        ("label", "str"),
        ("score", "float"),
        ("sources", "json"),
    ]
    assert list(schema.decode('{"label":"pos","sources":{"a":1}}')) == ["pos", None, {"a": 1}]
    with pytest.raises(Misfit, match="label must be 'pos' or 'neg'"):
        schema.decode('{"label":"meh"}')
    with pytest.raises(Misfit, match="the answer is not JSON"):
        schema.decode("meh")
