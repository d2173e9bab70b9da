"""A chat's messages as the built-in engines take them: text of known roles, and pictures. Pure."""

from typing import Any, Final

from backfill.engines.builtin.members import RequestRefused
from backfill.engines.builtin.pictures import explain_part, read_picture

__all__ = ["add_instructions", "check_messages"]

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_TEXTS: Final = {"text": "text", "refusal": "refusal"}


def check_messages(messages: list[dict[str, Any]], *, has_tools: bool, sees: bool = False) -> list[dict[str, Any]]:
    """The messages, with the role that templates know where OpenAI has a newer one; the same object if nothing is new.

    `has_tools`: whether the model's template has a place for calls of tools; `sees`: whether the engine takes pictures.

    Raises:
        RequestRefused: the engine cannot read them.

    """
    changed: dict[int, dict[str, Any]] = {}
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        role = message.get("role")
        if role not in _ROLES:
            raise RequestRefused(f"'{where}.role' must be one of {', '.join(_ROLES)}.", f"{where}.role")
        if message.get("tool_calls") and not has_tools:
            param = f"{where}.tool_calls"
            raise RequestRefused(f"The model's chat template has no place for '{param}'.", param)
        if not (role == "assistant" and message.get("content") is None):
            content = _check_content(message.get("content"), f"{where}.content", sees=sees)
            if content is not message.get("content"):
                changed[position] = message | {"content": content}
        if role == "developer":
            changed[position] = changed.get(position, message) | {"role": "system"}
    return [changed.get(position, message) for position, message in enumerate(messages)] if changed else messages


def add_instructions(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The messages with `text` in the system's, which comes first."""
    if not messages or messages[0].get("role") not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    first = messages[0]
    content = first.get("content")
    joined = [*content, {"type": "text", "text": text}] if isinstance(content, list) else f"{content}\n\n{text}"
    return [first | {"content": joined}, *messages[1:]]


def _check_content(content: object, where: str, *, sees: bool) -> object:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestRefused(f"'{where}' must be a string or a list of parts.", where)
    parts = [_check_part(part, f"{where}[{i}]", sees=sees) for i, part in enumerate(content)]
    return content if all(part is given for part, given in zip(parts, content, strict=True)) else parts


def _check_part(part: object, where: str, *, sees: bool) -> object:
    kind = part.get("type") if isinstance(part, dict) else None
    if sees and isinstance(part, dict) and kind == "image_url":
        return read_picture(part, where)
    name = _TEXTS.get(kind) if isinstance(kind, str) else None
    if name is None or not isinstance(part, dict) or not isinstance(part.get(name), str):
        raise RequestRefused(f"'{where}' {explain_part(kind, sees=sees)}", where)
    return part
