"""What a request for an audio endpoint asks for beside its clip: checked, and as the fields of a form. Pure.

Engines take such requests as a form and look at few of its fields: what is wrong is said here, by name, before anything
is fetched or sent. Members that are not known here are passed on.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from backfill.batch import BatchProblem
from backfill.wire.quotation import quote

__all__ = ["AUDIO_FORMATS", "DEFAULT_AUDIO_FORMAT", "find_audio_problem", "list_form_fields"]

DEFAULT_AUDIO_FORMAT: Final = "json"
AUDIO_FORMATS: Final = ("json", "verbose_json", "text", "srt", "vtt", "diarized_json")
"""What `response_format` may be; which of them an engine has is its own affair."""

_GRANULARITIES: Final = ("word", "segment")
_GRANULARITIES_MEMBER: Final = "timestamp_granularities"
# What stands for the clip, which is a part of its own, and what a batch does not have.
_LEFT_OUT: Final = frozenset({"file", "file_url", "stream"})
# As Together says that the language is to be found out, which is what everybody does who is told none.
_AUTO: Final = "auto"
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,}(?:[-_ ][A-Za-z0-9]+)*")
_LANGUAGE_LENGTH_MAX: Final = 40
_NAME_OF_FIELD: Final = re.compile(r"[!#-~]+")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def find_audio_problem(body: bytes) -> BatchProblem | None:
    """The first member that is not as the endpoints take it; None if each is. The clip itself is not looked at."""
    try:
        members = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _refuse("body", "body must be a JSON object: the request for the endpoint.")
    for name, find in _CHECKS.items():
        value = members.get(name)
        fault = None if value is None else find(value)
        if fault:
            return _refuse(f"body.{name}", f"body.{name} must be {fault}.")
    try:
        names = [name for name, _ in list_form_fields(body)]
    except RecursionError:
        return _refuse("body", "body is nested too deeply to be sent as a form.")
    for name in names:
        if not _NAME_OF_FIELD.fullmatch(name):
            return _refuse("body", f"body has the member {quote(name)}, which cannot be the name of a form's field.")
    return None


def list_form_fields(body: bytes) -> list[tuple[str, str]]:
    """Names and values of the fields that say what `body` says, in its order, but for the clip.

    Lists are repeated as `name[]`, members of objects are `name[member]`, what is null is left out.

    Raises:
        ValueError: the body is no JSON object.

    """
    fields: list[tuple[str, str]] = []
    for name, value in _decode(body).items():
        if name in _LEFT_OUT or (name == "language" and value == _AUTO):
            continue
        # A single one may be written without its list; engines look for the list's name only.
        is_single = name == _GRANULARITIES_MEMBER and isinstance(value, str)
        fields += _spread(name, [value] if is_single else value)
    return fields


def _spread(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for member, inner in value.items():
            yield from _spread(f"{name}[{member}]", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _spread(f"{name}[]", inner)
    elif isinstance(value, str):
        yield name, value
    elif value is not None:
        yield name, msgspec.json.encode(value).decode()


def _refuse(param: str, message: str) -> BatchProblem:
    return BatchProblem("invalid_request", message, param=param)


def _check_text(value: object) -> str | None:
    return None if isinstance(value, str) else "a string"


def _check_language(value: object) -> str | None:
    if isinstance(value, str) and len(value) <= _LANGUAGE_LENGTH_MAX and _LANGUAGE.fullmatch(value):
        return None
    shown = f"; got {quote(value)}" if isinstance(value, str) else ""
    return f'a language such as "en", or "auto"{shown}'


def _check_format(value: object) -> str | None:
    if isinstance(value, str) and value in AUDIO_FORMATS:
        return None
    return f"one of {', '.join(AUDIO_FORMATS)}{_show(value)}"


def _check_temperature(value: object) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_number and 0 <= value <= 1 else f"a number from 0 to 1{_show(value)}"  # type: ignore[operator]


def _check_granularities(value: object) -> str | None:
    given = value if isinstance(value, list) else [value]
    if given and all(isinstance(each, str) and each in _GRANULARITIES for each in given):
        return None
    return 'a list of "word" or "segment" or both'


def _show(value: object) -> str:
    return f"; got {quote(value if isinstance(value, str) else msgspec.json.encode(value).decode())}"


_CHECKS: Final = {
    "model": _check_text,
    "language": _check_language,
    "prompt": _check_text,
    "response_format": _check_format,
    "temperature": _check_temperature,
    _GRANULARITIES_MEMBER: _check_granularities,
}
