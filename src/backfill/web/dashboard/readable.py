"""Requests and answers as a person reads them: who says what, without the JSON around it. Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

__all__ = ["Passage", "read_answer", "read_request"]

_TEXT_LENGTH = 20_000
_NUMBERS_SHOWN = 8


class Passage(NamedTuple):
    """A piece of a conversation."""

    speaker: str
    text: str
    is_error: bool = False


def read_request(body: bytes) -> list[Passage]:
    """What a line asks for."""
    asked = _decode(body)
    if not isinstance(asked, dict):
        return [Passage("request", _cut(body.decode(errors="replace")))]
    passages: list[Passage] = []
    if isinstance(asked.get("instructions"), str):
        passages.append(Passage("system", _cut(asked["instructions"])))
    if isinstance(asked.get("messages"), list):
        passages += _read_messages(asked["messages"])
    for name in ("prompt", "input", "query", "file", "file_url"):
        if name in asked:
            passages += _read_input(name, asked[name])
    return passages or [Passage("request", _write(asked))]


def read_answer(body: bytes, *, is_answered: bool) -> list[Passage]:
    """What became of it: the answer of an engine, or why there is none."""
    told = _decode(body)
    if not isinstance(told, dict):
        return [Passage("answer", _cut(body.decode(errors="replace")), is_error=not is_answered)]
    if not is_answered:
        error = told.get("error", told)
        said = error.get("message") if isinstance(error, dict) else error
        return [Passage("error", _cut(said) if isinstance(said, str) else _write(told), is_error=True)]
    return list(_read_result(told)) or [Passage("answer", _write(told))]


def _read_result(told: dict[str, Any]) -> Iterator[Passage]:
    for choice in _list_objects(told.get("choices")):
        if isinstance(choice.get("message"), dict):
            yield from _read_messages([choice["message"]])
        elif isinstance(choice.get("text"), str):
            yield Passage("answer", _cut(choice["text"]))
    for item in _list_objects(told.get("output")):
        if "content" in item:
            yield from _read_messages([item])
        else:
            yield Passage(str(item.get("type", "output")), _write(item))
    for item in _list_objects(told.get("data")):
        if isinstance(item.get("embedding"), list):
            yield Passage("embedding", _show_numbers(item["embedding"]))
    if isinstance(told.get("text"), str):
        yield Passage("text", _cut(told["text"]))
    if isinstance(told.get("content"), list):
        yield from _read_messages([{"role": "assistant", "content": told["content"]}])


def _show_numbers(numbers: list[Any]) -> str:
    shown = ", ".join(f"{number:.4g}" for number in numbers[:_NUMBERS_SHOWN] if isinstance(number, (int, float)))
    return f"{len(numbers):,} numbers: {shown}, …"


def _read_messages(messages: list[Any]) -> Iterator[Passage]:
    for message in messages:
        if not isinstance(message, dict):
            yield Passage("message", _write(message))
            continue
        speaker = str(message.get("role", "message"))
        if message.get("reasoning_content"):
            yield Passage(f"{speaker}, thinking", _cut(str(message["reasoning_content"])))
        text = _read_content(message.get("content"))
        if text:
            yield Passage(speaker, text)
        for call in _list(message.get("tool_calls")):
            yield Passage(f"{speaker} calls", _write(call.get("function", call) if isinstance(call, dict) else call))


def _read_content(content: object) -> str:
    if isinstance(content, str):
        return _cut(content)
    parts: list[str] = []
    for part in _list(content):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif isinstance(part, dict):
            parts.append(f"[{_name_medium(part)}]")
        else:
            parts.append(_write(part))
    return _cut("\n".join(parts))


def _name_medium(part: dict[str, Any]) -> str:
    kind = str(part.get("type", "part"))
    medium = part.get(kind, part)
    url = medium.get("url") if isinstance(medium, dict) else medium
    if not isinstance(url, str):
        return kind
    return f"{kind}: {url.partition(',')[0] if url.startswith('data:') else url[:200]}"


def _read_input(name: str, value: object) -> Iterator[Passage]:
    if isinstance(value, str):
        yield Passage(name, _cut(value.partition(",")[0] if value.startswith("data:") else value))
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        yield from _read_messages(value)
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield from (Passage(name, _cut(item)) for item in value)
    else:
        yield Passage(name, _write(value))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _list_objects(value: object) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _write(value: object) -> str:
    try:
        return _cut(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    except RecursionError:
        return "(nested too deeply)"


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]}… ({len(text):,} characters)"
