"""A `tool_choice` that leaves the model no choice, kept by a JSON schema: pure, on the members of a chat request.

Neither engine forces a call by itself. But both follow a JSON schema, and a function's arguments have one: the model is
told of the functions, has to answer in their form, and the answer is made into the call.
"""

import uuid
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from backfill.engines.builtin.members import RequestRefused
from backfill.engines.builtin.messages import add_instructions

__all__ = ["ForcedCall", "find_forced_call"]

# Where an object may have members, but need not, small models write blanks until their tokens are used up.
_NO_ARGUMENTS: Final[dict[str, Any]] = {"const": {}}
_EMPTY_FORM: Final = frozenset({"$schema", "additionalProperties", "description", "properties", "title", "type"})
# What would shape or cut the same text.
_OTHER_FORMS: Final = ("structured_outputs", "guided_json", "guided_regex", "grammar", "json_schema", "stop")


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw


_call: Final = msgspec.json.Decoder(_Call)


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """The functions of which the answer has to call one."""

    functions: tuple[dict[str, Any], ...]

    def rewrite(self, members: dict[str, Any]) -> dict[str, Any]:
        """The members of a request whose answer is the call, as text."""
        kept = {name: value for name, value in members.items() if name not in ("tools", "tool_choice")}
        schema = _write_schema(self.functions)
        kept["messages"] = add_instructions(members["messages"], _write_instructions(self.functions))
        kept["response_format"] = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
        return kept

    def finish(self, choice: dict[str, Any]) -> dict[str, Any]:
        """The choice with the call in place of its text; as it is where the text ends before the function is known."""
        text = choice["message"]["content"] or ""
        cut_off = choice.get("finish_reason") == "length"
        if len(self.functions) == 1:
            name, arguments = self.functions[0]["name"], text.strip()
        elif cut_off:
            return choice
        else:
            call = _call.decode(text)
            name, arguments = call.name, bytes(call.arguments).decode()
        called = {"name": name, "arguments": arguments}
        calls = [{"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": called}]
        message = choice["message"] | {"content": None, "tool_calls": calls}
        return choice | {"message": message, "finish_reason": "length" if cut_off else "tool_calls"}


def find_forced_call(members: dict[str, Any]) -> ForcedCall | None:
    """The call that a chat request forces; None where the model may choose.

    Raises:
        RequestRefused: `tools` or `tool_choice` is wrong, or the call cannot be forced.

    """
    tools = [_read_tool(tool, i) for i, tool in enumerate(members.get("tools") or ())]
    choice = members.get("tool_choice")
    if choice in (None, "auto", "none"):
        return None
    name = _read_choice(choice)
    functions = tuple(tool for tool in tools if name in (None, tool["name"]))
    if not functions:
        said = f"the function {name!r}, which 'tools' does not have" if name else "a call, and there are no 'tools'"
        raise RequestRefused(f"'tool_choice' asks for {said}.", "tool_choice")
    for other in _OTHER_FORMS:
        if members.get(other) is not None:
            raise RequestRefused(f"'{other}' and a forced call cannot both be had.", other)
    if len(functions) > 1 and b'"$ref"' in msgspec.json.encode(functions):
        message = "'tool_choice' must name one function: there are several, and a schema among them uses '$ref'."
        raise RequestRefused(message, "tool_choice")
    return ForcedCall(functions)


def _read_tool(tool: dict[str, Any], position: int) -> dict[str, Any]:
    where = f"tools[{position}]"
    if tool.get("type") != "function":
        raise RequestRefused(f"'{where}.type' must be function: the engine has no tools of its own.", f"{where}.type")
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestRefused(f"'{where}.function' must be an object with a name.", f"{where}.function")
    if not isinstance(function.get("parameters") or {}, dict):
        raise RequestRefused(f"'{where}.function.parameters' must be an object.", f"{where}.function.parameters")
    return function


def _read_choice(choice: object) -> str | None:
    """The function's name; None for any."""
    if choice == "required":
        return None
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return str(function["name"])
    raise RequestRefused("'tool_choice' must be none, auto, required or a function by its name.", "tool_choice")


def _write_schema(functions: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    if len(functions) == 1:
        return _write_arguments(functions[0])
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": _write_arguments(function),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return {"anyOf": calls}


def _write_arguments(function: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = function.get("parameters") or {}
    has_none = not parameters.get("properties") and set(parameters) <= _EMPTY_FORM
    return _NO_ARGUMENTS if has_none else parameters


def _write_instructions(functions: tuple[dict[str, Any], ...]) -> str:
    known = "\n".join(msgspec.json.encode(function).decode() for function in functions)
    if len(functions) == 1:
        return f"Call this function. Answer with its arguments, as JSON and nothing else.\n{known}"
    return f'Call one of these functions. Answer with {{"name": ..., "arguments": ...}} and nothing else.\n{known}'
