"""What is wrong with a line that did not parse, and where. Slow, and only for such lines.

A line that is JSON and has a custom id is a request that cannot be sent, and fails by itself. Anything else is a fault
of the file, unless the batch passes over such lines: nobody could be told what became of that line. Positions are bytes
of the line and count from 1.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from backfill.batch import BatchProblem
from backfill.wire.line_shape import Fault, find_fault_problem, shape_of_fault
from backfill.wire.quotation import quote

__all__ = ["FaultyRequest", "explain_line", "explain_no_request"]

# Beyond this many digits no reader goes along.
_MOST_DIGITS = 4300
_LONGEST_PATH = 200
_MOST_SHOWN = 20
_STRING = rb'"(?:[^"\\]|\\.)*"'
_CONSTANTS = re.compile(_STRING + rb"|(-?(?:NaN|Infinity))")
_NUMBERS = re.compile(_STRING + rb"|(-?\d[\d.eE+-]*)")
_HALVES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
_HALF = re.compile("[\ud800-\udfff]")
_NAMES = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "true or false"}
# What the standard library says of bad JSON, and what stands in our sentence in its place.
_EXPECTED = {
    "Expecting value": "a value",
    "Expecting ',' delimiter": "a comma or the closing bracket",
    "Expecting ':' delimiter": "a colon",
    "Expecting property name enclosed in double quotes": "a member's name in double quotes",
    "Illegal trailing comma before end of object": "a value and no trailing comma",
    "Illegal trailing comma before end of array": "a value and no trailing comma",
}
_ESCAPES = r'After a backslash comes one of " \ / b f n r t, or u and four hexadecimal digits.'


class FaultyRequest(NamedTuple):
    """What can be told of a line whose request cannot be sent."""

    custom_id: str
    model: str | None
    method: object
    url: object
    shape: int
    problem: BatchProblem


def explain_line(line: bytes) -> BatchProblem | FaultyRequest:
    """The first thing that is wrong with a line that did not parse."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return _bad_json(f"The line is not valid UTF-8: byte {error.start + 1} is 0x{line[error.start]:02X}.")
    if not text.strip("\0"):
        message = f"The line is {len(text)} NUL bytes and nothing else; maybe the file was not written to its end."
        return _bad_json(message)
    try:
        return _explain_json(line, text)
    except json.JSONDecodeError as error:
        return _bad_json(_explain_syntax(error))
    except RecursionError:
        return _bad_json("The line's JSON is nested too deeply.")


def explain_no_request(line: bytes) -> BatchProblem:
    """What is wrong with a line that was found to be no request when it was taken in."""
    found = explain_line(line)
    if isinstance(found, BatchProblem):
        return found
    length = len(found.custom_id)
    told = f"has {length} characters, more than limits.custom_id_length allows" if length else "is empty"
    return BatchProblem("invalid_custom_id", f"custom_id {told}.", param="custom_id")


def _explain_json(line: bytes, text: str) -> BatchProblem | FaultyRequest:
    constants: list[str] = []
    repeated: list[str] = []

    def read_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) < len(members):
            counts = Counter(name for name, _ in members)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return found

    # Only the standard library says where and why, and reads on behind half a character.
    reader = json.JSONDecoder(parse_int=_read_integer, parse_constant=constants.append, object_pairs_hook=read_object)
    value = reader.decode(text)
    if constants:
        found, place = _locate(line, _CONSTANTS)
        return _bad_json(f"The line is not valid JSON: byte {place} begins {found}, which is no JSON number; use null.")
    if not isinstance(value, dict):
        name = "null" if value is None else _NAMES[type(value)]
        return _bad_json(f"The line must be a JSON object with custom_id and body; it is {name}.")
    return _find_custom_id_problem(value) or _explain_request(line, value, repeated)


def _bad_json(message: str) -> BatchProblem:
    return BatchProblem("invalid_json_line", message)


def _read_integer(digits: str) -> float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _explain_syntax(error: json.JSONDecodeError) -> str:
    text, message = error.doc, error.msg
    place = len(text[: error.pos].encode()) + 1
    expected = _EXPECTED.get(message)
    if text.startswith("\ufeff"):
        return "The line begins with a byte order mark, which may stand only at the start of a file."
    if message == "Extra data" and text[error.pos] != "\0":
        more = "more follows, and each request must stand on a line of its own."
        return f"The line is not valid JSON: it is complete before byte {place}, but {more}"
    end = len(text.rstrip())
    if error.pos >= end and expected is not None:
        place = len(text[:end].encode())
        return f"The line is not valid JSON: it ends after byte {place}, where {expected} is expected."
    if message.startswith("Unterminated string"):
        return f"The line is not valid JSON: the string that begins at byte {place} has no closing quote."
    found = text[error.pos]
    if found == "\0":
        return f"The line is not valid JSON: byte {place} is NUL; maybe the file was not written to its end."
    if message.startswith("Invalid control character"):
        escape = msgspec.json.encode(found).decode()[1:-1]
        control = f"byte {place} is the control character U+{ord(found):04X}"
        return f"The line is not valid JSON: {control}; in a string it must be written as {escape}."
    if expected is not None:
        return f"The line is not valid JSON: at byte {place} {expected} is expected, not {quote(found)}."
    return f"The line is not valid JSON: the escape at byte {place} is none. {_ESCAPES}"


def _find_custom_id_problem(value: dict[str, Any]) -> BatchProblem | None:
    if "custom_id" not in value:
        message = "custom_id is missing: a string that names the request and is unique in the file."
        return BatchProblem("missing_custom_id", message, param="custom_id")
    custom_id = value["custom_id"]
    if not isinstance(custom_id, str):
        return BatchProblem("invalid_custom_id", "custom_id must be a string.", param="custom_id")
    if _HALF.search(custom_id):
        message = f"custom_id holds half a character, a lone surrogate: {quote(custom_id)}."
        return BatchProblem("invalid_custom_id", message, param="custom_id")
    return None


def _explain_request(line: bytes, value: dict[str, Any], repeated: list[str]) -> FaultyRequest:
    body = value.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    if "body" not in value:
        fault = Fault.PARAMS if isinstance(value.get("params"), dict) else Fault.MISSING_BODY
    elif not isinstance(body, dict):
        fault = Fault.INVALID_BODY
    elif not isinstance(model, str | None):
        fault = Fault.INVALID_MODEL
    else:
        fault = Fault.UNREADABLE
    problem = find_fault_problem(fault)
    if fault is Fault.UNREADABLE:
        problem = _find_unreadable(line, value) or _name_repeated(repeated) or problem
    named = model if isinstance(model, str) and not _HALF.search(model) else None
    method, url = value.get("method"), value.get("url")
    return FaultyRequest(value["custom_id"], named or None, method, url, shape_of_fault(fault), problem)


def _name_repeated(names: list[str]) -> BatchProblem | None:
    if not names:
        return None
    message = f"The member {quote(names[0])} stands twice in one object, and the two do not agree."
    return BatchProblem("invalid_request", message)


def _find_unreadable(line: bytes, value: dict[str, Any]) -> BatchProblem | None:
    """A text or a number that is JSON by its grammar, but that no engine can be trusted to read."""
    path, pattern = next(_walk(value, ""), ("", None))
    if pattern is None:
        return None
    path = path.encode(errors="backslashreplace").decode()
    found, place = _locate(line, pattern)
    where = f"{found} at byte {place} of the line"
    if pattern is _HALVES:
        message = f"{path}: {where} is half a character, a lone surrogate. Write both halves, or leave it out."
    else:
        message = f"{path}: the number {where} is too large; the limit is about 1.8e308."
    return BatchProblem("invalid_request", message, param=path)


def _walk(value: object, path: str) -> Iterator[tuple[str, re.Pattern[bytes]]]:
    """Where there is what no engine can be trusted to read, and what finds it among the line's bytes; in order."""
    if isinstance(value, str):
        if _HALF.search(value):
            yield path, _HALVES
    elif isinstance(value, float):
        if math.isinf(value):
            yield path, _NUMBERS
    elif isinstance(value, dict):
        for name, member in value.items():
            below = _extend(path, f".{name}" if path else name)
            if _HALF.search(name):
                yield below, _HALVES
            yield from _walk(member, below)
    elif isinstance(value, list):
        for position, element in enumerate(value):
            yield from _walk(element, _extend(path, f"[{position}]"))


def _extend(path: str, step: str) -> str:
    # Cut while it grows, or a long name would be copied for each of its members.
    return (path + step)[:_LONGEST_PATH]


def _locate(line: bytes, pattern: re.Pattern[bytes]) -> tuple[str, int]:
    """What the pattern's group finds first, cut short, and its byte; 0 if there is nothing."""
    for match in pattern.finditer(line):
        found = match[1]
        if found is not None and (pattern is not _NUMBERS or _is_huge(found)):
            shown = found.decode() if len(found) <= _MOST_SHOWN else f"{found[:_MOST_SHOWN].decode()}…"
            return shown, match.start(1) + 1
    return "", 0


def _is_huge(number: bytes) -> bool:
    return len(number) > _MOST_DIGITS or (not number.lstrip(b"-").isdigit() and math.isinf(float(number)))
