"""How answers are to look, and what becomes of one: the JSON schema that is sent, and the values that are taken out."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from backfill.errors import InvalidInput
from backfill.tables.column_types import AnswerColumn, ColumnType, parse_columns
from backfill.tables.json_fault import explain_json
from backfill.validation import describe_fault

__all__ = ["AnswerSchema", "Misfit"]

_KINDS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_NAME = "answer"
_SHOWN_CHARACTERS = 60
# What would have to be escaped in JSON.
_UNNAMEABLE = re.compile(r'[\x00-\x1f"\\\ud800-\udfff]')
# Models that were not held to the schema like to put their JSON into a block of Markdown.
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(?P<inside>.*?)\n?\s*```\s*", re.DOTALL)
_PLACE = re.compile(r"(?P<fault>.*) - at `(?P<path>\$.*)`", re.DOTALL)


class Misfit(ValueError):
    """An answer is not what the schema asks for; the message is one line."""


@dataclass(frozen=True)
class AnswerSchema:
    """The columns of an answer, in order."""

    columns: tuple[AnswerColumn, ...]
    schema: Mapping[str, Any]
    """As it is sent to the engine."""
    _decode: Callable[[str], Sequence[Any]]

    @classmethod
    def of_columns(cls, columns: str | Sequence[AnswerColumn]) -> "AnswerSchema":
        """From a list such as `label:enum(pos,neg), score:float`; raises InvalidInput."""
        listed = parse_columns(columns) if isinstance(columns, str) else tuple(columns)
        schema = {
            "type": "object",
            "properties": {column.name: column.type.render_schema() for column in listed},
            "required": [column.name for column in listed],
            "additionalProperties": False,
        }
        return cls(listed, schema, _make_decoder(listed))

    @classmethod
    def of_json_schema(cls, schema: Any) -> "AnswerSchema":
        """From a JSON schema of an object, whose properties become columns; raises InvalidInput."""
        columns = _read_columns(schema)
        return cls(columns, schema, _make_decoder(columns))

    @classmethod
    def of_model(cls, model: Any) -> "AnswerSchema":
        """From a pydantic model, which also checks the answers; raises InvalidInput if it has no fields."""
        schema = model.model_json_schema()
        columns = _read_columns(schema)
        names = [column.name for column in columns]

        def decode(text: str) -> Sequence[Any]:
            from pydantic import ValidationError  # noqa: PLC0415 - whoever brings a model has it loaded

            try:
                found = model.model_validate_json(text).model_dump(mode="json", by_alias=True)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                if first["type"] == "json_invalid":
                    raise Misfit(_describe_no_json(text)) from None
                place = ".".join(map(str, first["loc"]))
                raise Misfit(f"{place} {describe_fault(first)}" if place else describe_fault(first)) from None
            return [found.get(name) for name in names]

        return cls(columns, schema, decode)

    def decode(self, text: str) -> Sequence[Any]:
        """The values of an answer, one a column; raises Misfit."""
        if fenced := _FENCE.fullmatch(text):
            text = fenced["inside"]
        return self._decode(text)

    @property
    def response_format(self) -> dict[str, Any]:
        """The member of a request that asks for such an answer."""
        required = self.schema.get("required") or ()
        properties = self.schema.get("properties") or {}
        is_strict = set(required) == set(properties) and self.schema.get("additionalProperties") is False
        told = {"name": _NAME, "schema": self.schema} | ({"strict": True} if is_strict else {})
        return {"type": "json_schema", "json_schema": told}


def _make_decoder(columns: Sequence[AnswerColumn]) -> Callable[[str], Sequence[Any]]:
    for column in columns:
        if _UNNAMEABLE.search(column.name):
            message = (
                f"No column of answers can be called {column.name!r}: there is a quote, a backslash or a control "
                "character in it."
            )
            raise InvalidInput(message, param="columns", code="bad_columns")
    # Columns may be called as no field may; what they are called in JSON is free.
    fields: list[Any] = []
    for number, column in enumerate(columns):
        kind = column.type.python_type
        fields.append((f"f{number}", kind) if column.is_required else (f"f{number}", kind | None, None))
    names = {f"f{number}": column.name for number, column in enumerate(columns)}
    struct = msgspec.defstruct("Answer", fields, rename=names, kw_only=True)
    decode = msgspec.json.Decoder(struct).decode
    attributes = list(names)

    def take(text: str) -> Sequence[Any]:
        try:
            found = decode(text)
        except msgspec.ValidationError as error:
            raise Misfit(_describe_misfit(str(error), columns)) from None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise Misfit(_describe_no_json(text)) from None
        return [getattr(found, name) for name in attributes]

    return take


def _describe_misfit(reason: str, columns: Sequence[AnswerColumn]) -> str:
    found = _PLACE.fullmatch(reason)
    fault, path = (found["fault"], found["path"]) if found else (reason, "$")
    fault = fault[:1].lower() + fault[1:]
    if path == "$":
        return fault
    name = path.removeprefix("$.")
    allowed = next((column.type.values for column in columns if column.name == name), ())
    return f"{name}: {fault}; it may be {', '.join(allowed)}" if allowed else f"{name}: {fault}"


def _describe_no_json(text: str) -> str:
    if not text.strip():
        return "the answer is empty"
    shown = " ".join(text.split())
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
    return f"the answer is not JSON: {explain_json(text)}: {shown}"


def _read_columns(schema: Any) -> tuple[AnswerColumn, ...]:
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict) or not schema["properties"]:
        message = "The schema of answers must be one of an object with properties, each of which becomes a column."
        raise InvalidInput(message, param="schema", code="bad_schema")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        message = "The schema of answers has a member 'required' that is no list of names."
        raise InvalidInput(message, param="schema", code="bad_schema")
    return tuple(
        AnswerColumn(name, _read_type(each, schema), name in required) for name, each in schema["properties"].items()
    )


def _read_type(schema: Any, root: Mapping[str, Any]) -> ColumnType:
    """The type of a column, where it is one that a column has; `json` for all others."""
    schema, is_nullable = _resolve(schema, root)
    kind = schema.get("type")
    if isinstance(kind, list):
        others = [each for each in kind if each != "null"]
        is_nullable = is_nullable or "null" in kind
        kind = others[0] if len(others) == 1 else None
    if not isinstance(kind, str):
        return ColumnType("json")
    if kind == "array" and isinstance(schema.get("items"), dict):
        of = _read_type(schema["items"], root)
        return ColumnType("json") if of.kind == "json" else ColumnType("list", of=of, is_nullable=is_nullable)
    if kind not in _KINDS or {"anyOf", "oneOf", "allOf"} & schema.keys():
        return ColumnType("json")
    listed = schema.get("enum", [])
    values = [value for value in listed if value is not None] if isinstance(listed, list) else []
    if kind == "string" and values and all(isinstance(value, str) for value in values):
        return ColumnType("str", tuple(values), is_nullable=is_nullable)
    return ColumnType(_KINDS[kind], is_nullable=is_nullable)


def _resolve(schema: Any, root: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Behind references within the schema and `anyOf` with null: the schema itself, and whether null is allowed."""
    is_nullable = False
    for _ in range(10):
        if not isinstance(schema, dict):
            return {}, is_nullable
        reference = schema.get("$ref")
        choices = schema.get("anyOf")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            definitions = root.get("$defs")
            named = definitions if isinstance(definitions, dict) else {}
            schema = named.get(reference.removeprefix("#/$defs/"))
        elif isinstance(choices, list) and len(choices) == 2 and {"type": "null"} in choices:
            schema = next((each for each in choices if each != {"type": "null"}), None)
            is_nullable = True
        else:
            return schema, is_nullable
    return {}, is_nullable
