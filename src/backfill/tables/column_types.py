"""Which columns an answer becomes, and of what type: `label:enum(pos,neg), score:float?, tags:list[str]`.

name                 text
name:TYPE            str, int, float, bool, enum(a,b,…) or list[TYPE]
name:TYPE?           the model may say null
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from backfill.errors import InvalidInput

__all__ = ["AnswerColumn", "ColumnType", "parse_columns"]

_ENUM = re.compile(r"enum\((?P<values>.*)\)", re.DOTALL)
_LIST = re.compile(r"list\[(?P<of>.*)\]", re.DOTALL)
_OPENING, _CLOSING = "([", ")]"
# What a column of 64 bits holds; a model may write more digits.
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_SCALARS: dict[str, tuple[str, Any]] = {
    "str": ("string", str),
    "int": ("integer", _Int64),
    "float": ("number", float),
    "bool": ("boolean", bool),
}


@dataclass(frozen=True)
class ColumnType:
    """`kind` is str, int, float, bool, list (of `of`) or json, which is whatever the model says."""

    kind: str
    values: tuple[str, ...] = ()
    """Of text: all that it may be; none if it may be any."""
    of: "ColumnType | None" = None
    is_nullable: bool = False
    """Whether the model may say null; the column holds null in any case where there is no answer."""

    @property
    def python_type(self) -> Any:
        """What msgspec checks a value of an answer against."""
        checked: Any
        if self.kind == "json":
            return Any
        if self.kind == "list":
            checked = list[self.of.python_type]  # type: ignore[name-defined]
        elif self.values:
            checked = Literal[self.values]
        else:
            checked = _SCALARS[self.kind][1]
        return checked | None if self.is_nullable else checked

    def render_schema(self) -> dict[str, Any]:
        """The type as a JSON schema."""
        schema: dict[str, Any]
        if self.kind == "list":
            schema = {"type": "array", "items": self.of.render_schema() if self.of else {}}
        else:
            schema = {"type": _SCALARS[self.kind][0]}
        if self.values:
            schema["enum"] = [*self.values, *([None] if self.is_nullable else [])]
        if self.is_nullable:
            schema["type"] = [schema["type"], "null"]
        return schema


@dataclass(frozen=True)
class AnswerColumn:
    """A column that answers fill."""

    name: str
    type: ColumnType = field(default_factory=lambda: ColumnType("str"))
    is_required: bool = True
    """Whether an answer without it is no answer."""


def parse_columns(spec: str) -> tuple[AnswerColumn, ...]:
    """Read what `--columns` says; raises InvalidInput that names the column at fault."""
    columns = tuple(_parse_column(part) for part in _split(spec))
    if not columns:
        raise _fault("names no column; write, say, 'label:enum(pos,neg), score:float'")
    names = [column.name for column in columns]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise _fault(f"names {doubled!r} twice")
    return columns


def _parse_column(text: str) -> AnswerColumn:
    name, _, kind = text.partition(":")
    if not name.strip():
        raise _fault(f"has no name before {text.strip()!r}")
    return AnswerColumn(name.strip(), _parse_type(kind.strip() or "str", name.strip()))


def _parse_type(text: str, column: str) -> ColumnType:
    is_nullable = text.endswith("?")
    word = text.removesuffix("?").strip()
    if word in _SCALARS:
        return ColumnType(word, is_nullable=is_nullable)
    if found := _ENUM.fullmatch(word):
        values = tuple(value.strip() for value in found["values"].split(","))
        if not all(values) or len(set(values)) < len(values):
            raise _fault(f"has an enum for {column!r} with an empty or doubled value: {word}")
        return ColumnType("str", values, is_nullable=is_nullable)
    if found := _LIST.fullmatch(word):
        return ColumnType("list", of=_parse_type(found["of"].strip(), column), is_nullable=is_nullable)
    raise _fault(
        f"has an unknown type {text!r} for {column!r}; there are str, int, float, bool, enum(a,b) and list[TYPE], each "
        "with a ? behind it if the model may say null"
    )


def _split(spec: str) -> Iterator[str]:
    """The parts between commas, but for those in brackets."""
    depth, start = 0, 0
    for at, mark in enumerate(spec):
        if mark in _OPENING:
            depth += 1
        elif mark in _CLOSING:
            depth -= 1
        elif mark == "," and depth == 0:
            yield spec[start:at]
            start = at + 1
    if depth:
        raise _fault(f"has a bracket that is not {'closed' if depth > 0 else 'opened'}: {spec!r}")
    if spec[start:].strip():
        yield spec[start:]


def _fault(what: str) -> InvalidInput:
    return InvalidInput(f"The column list {what}.", param="columns", code="bad_columns")
