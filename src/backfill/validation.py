"""What pydantic finds wrong with a value, in our own words."""

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["describe_fault", "describe_json_fault"]

_NUMBER = "must be a number"
_WHOLE = "must be a whole number"
_DATE = "must be a date such as 2026-11-26"
_OBJECT = "must be an object of names and values"
_LIST = "must be a list"
_FAULTS: dict[str, str | Callable[[Mapping[str, Any]], str]] = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_unicode": "must be valid UTF-8",
    "string_too_short": lambda limits: _describe_least(limits["min_length"], "character"),
    "string_too_long": lambda limits: f"must have at most {_count(limits['max_length'], 'character')}",
    "too_short": lambda limits: _describe_least(limits["min_length"], "entry"),
    "too_long": lambda limits: f"must have at most {_count(limits['max_length'], 'entry')}",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE + " of fewer digits",
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "greater_than": lambda limits: f"must be above {_write(limits['gt'])}",
    "greater_than_equal": lambda limits: f"must be at least {_write(limits['ge'])}",
    "less_than": lambda limits: f"must be below {_write(limits['lt'])}",
    "less_than_equal": lambda limits: f"must be at most {_write(limits['le'])}",
    "decimal_type": _NUMBER,
    "decimal_parsing": _NUMBER,
    "decimal_max_places": lambda limits: f"must have at most {limits['decimal_places']} digits behind the point",
    "date_type": _DATE,
    "date_parsing": _DATE,
    "date_from_datetime_parsing": _DATE,
    "date_from_datetime_inexact": _DATE,
    "string_pattern_mismatch": lambda limits: f"must match {limits['pattern']}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": lambda limits: f"must be {limits['expected']}",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "path_type": "must be a path",
    "union_tag_invalid": lambda limits: (
        f"is of an unknown kind: {limits['discriminator']} must be one of {limits['expected_tags']}"
    ),
}
# As the parser words it -> as we do; the first that the parser's words begin with.
_JSON_FAULTS = {
    "EOF while parsing a string": "it ends inside a string",
    "EOF while parsing a list": "it ends inside a list",
    "EOF while parsing an object": "it ends inside an object",
    "EOF": "it ends where a value should stand",
    "expected `:`": "a colon is missing",
    "expected `,` or `]`": "a comma or the end of the list is missing",
    "expected `,` or `}`": "a comma or the end of the object is missing",
    "expected ident": "a word other than true, false and null",
    "expected value": "there is no value where one should stand",
    "invalid escape": "an unknown escape in a string",
    "invalid number": "a number that is none",
    "number out of range": "a number that is too large",
    "invalid unicode": "bytes that are not valid UTF-8",
    "control character": "a control character in a string, which must be escaped",
    "key must be a string": "a name without quotes",
    "lone leading surrogate": "half of a surrogate pair in a string",
    "unexpected end of hex escape": "half of a surrogate pair in a string",
    "trailing comma": "a comma with nothing behind it",
    "trailing characters": "something stands behind its end",
    "recursion limit": "it is nested too deeply",
}
_POSITION = re.compile(r"(?P<fault>.*) at line (?P<line>\d+) column (?P<column>\d+)", re.DOTALL)


def describe_fault(problem: Mapping[str, Any]) -> str:
    """One of pydantic's complaints as the end of a sentence that begins with the value's name."""
    kind = problem["type"]
    if kind in {"value_error", "assertion_error"}:
        return str(problem["msg"].partition(", ")[2])
    description = _FAULTS.get(kind, "is not valid")
    return description if isinstance(description, str) else description(problem["ctx"])


def describe_json_fault(reason: str) -> str:
    """What the parser says of bytes that are no JSON, such as "it ends inside a string (line 1, column 20)"."""
    found = _POSITION.fullmatch(reason)
    fault, place = (found["fault"], f" (line {found['line']}, column {found['column']})") if found else (reason, "")
    return next((ours for theirs, ours in _JSON_FAULTS.items() if fault.startswith(theirs)), "it breaks off") + place


def _describe_least(least: int, noun: str) -> str:
    return "must not be empty" if least == 1 else f"must have at least {_count(least, noun)}"


def _count(number: int, noun: str) -> str:
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _write(number: object) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
