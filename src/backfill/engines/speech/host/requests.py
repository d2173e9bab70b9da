"""The fields of a form become an order, or a refusal: pure. Every field is honoured or refused."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from backfill.engines.host_refusal import Refusal

__all__ = ["FORMATS", "LANGUAGES", "Order", "Wanted", "parse_request"]

FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
_GRANULARITIES: Final = ("segment", "word")
_GRANULARITIES_FIELD: Final = "timestamp_granularities"
_LISTED: Final = f"{_GRANULARITIES_FIELD}[]"
"""The same, as forms name a list."""
_FIELDS: Final = frozenset(
    {
        "chunking_strategy",
        "hotwords",
        "language",
        "model",
        "prompt",
        "response_format",
        "stream",
        "temperature",
        _GRANULARITIES_FIELD,
        _LISTED,
    }
)
_CODES: Final = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy "
    "id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa "
    "sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
)
LANGUAGES: Final = frozenset(_CODES.split())
"""Codes of the languages that Whisper was trained with."""
_TEXT_LENGTH_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Order:
    """How a file is to be heard. What is heard by equal orders may be computed together."""

    task: Literal["transcribe", "translate"]
    prompt: str = ""
    hotwords: str = ""
    temperature: float = 0.0
    timestamps: bool = False
    """Whether the segments' times are wanted: without, Whisper hears better."""
    words: bool = False
    """Whether the words' times are."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request without its file."""

    order: Order
    language: str | None
    form: str
    """One of `FORMATS`."""
    granularities: frozenset[str]
    """Of verbose_json."""


def parse_request(
    task: Literal["transcribe", "translate"], fields: Mapping[str, Sequence[str]], *, is_multilingual: bool
) -> Wanted:
    """What a form asks for; `fields` are its members but the file, each as often as it was given.

    Raises:
        Refusal: a field is unknown, or its value none that can be honoured.

    """
    _check_names(fields)
    form = _choose("response_format", fields, FORMATS) or "json"
    _choose("stream", fields, ("false", "False"))
    _choose("chunking_strategy", fields, ("auto",))
    granularities = _read_granularities(fields, form)
    words = "word" in granularities
    order = Order(
        task=task,
        prompt=_read_text("prompt", fields),
        hotwords=_read_text("hotwords", fields),
        temperature=_read_temperature(fields),
        timestamps=form in ("srt", "vtt", "verbose_json"),
        words=words,
    )
    return Wanted(order, _read_language(task, fields, is_multilingual=is_multilingual), form, granularities)


def _check_names(fields: Mapping[str, Sequence[str]]) -> None:
    for name, values in fields.items():
        if name not in _FIELDS:
            known = ", ".join(sorted({"file", *_FIELDS} - {_LISTED}))
            raise Refusal(f"{name!r} is no field that this engine knows: {known} are.", name)
        if len(values) > 1 and name not in (_GRANULARITIES_FIELD, _LISTED):
            raise Refusal(f"{name!r} is given more than once.", name)


def _read_text(name: str, fields: Mapping[str, Sequence[str]]) -> str:
    text = fields.get(name, ("",))[0].strip()
    if len(text) > _TEXT_LENGTH_MAX:
        raise Refusal(f"{name!r} has {len(text)} characters; {_TEXT_LENGTH_MAX} are allowed.", name)
    return text


def _choose(name: str, fields: Mapping[str, Sequence[str]], allowed: Sequence[str]) -> str:
    value = _read_text(name, fields)
    if value and value not in allowed:
        raise Refusal(f"{name!r} must be one of {', '.join(dict.fromkeys(allowed))}; it is {value[:40]!r}.", name)
    return value


def _read_temperature(fields: Mapping[str, Sequence[str]]) -> float:
    text = _read_text("temperature", fields)
    try:
        temperature = float(text or 0)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature <= 1:
        raise Refusal(f"'temperature' must be a number from 0 to 1; it is {text[:40]!r}.", "temperature")
    return temperature


def _read_granularities(fields: Mapping[str, Sequence[str]], form: str) -> frozenset[str]:
    given = (*fields.get(_GRANULARITIES_FIELD, ()), *fields.get(_LISTED, ()))
    found = frozenset(value for value in given if value)
    if not found <= set(_GRANULARITIES):
        allowed = ", ".join(_GRANULARITIES)
        raise Refusal(f"{_GRANULARITIES_FIELD!r} may hold {allowed}.", _GRANULARITIES_FIELD)
    if found and form != "verbose_json":
        message = f"{_GRANULARITIES_FIELD!r} needs 'response_format' to be verbose_json."
        raise Refusal(message, _GRANULARITIES_FIELD)
    return found or frozenset({"segment"})


def _read_language(task: str, fields: Mapping[str, Sequence[str]], *, is_multilingual: bool) -> str | None:
    # A region says nothing to Whisper: en-US is English.
    language = _read_text("language", fields).lower().replace("_", "-").partition("-")[0]
    if language and language not in LANGUAGES:
        raise Refusal(
            f"'language' must be a code that Whisper knows (en, de, zh, …); it is {language[:40]!r}.", "language"
        )
    if not is_multilingual and task == "translate":
        raise Refusal("The model knows English only: it cannot translate.", "model")
    if not is_multilingual and language not in ("", "en"):
        raise Refusal(f"The model knows English only; 'language' is {language!r}.", "language")
    return language or (None if is_multilingual else "en")
