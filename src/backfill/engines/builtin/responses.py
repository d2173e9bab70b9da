"""`/v1/responses` as a chat: the request is made into one of chat, and the chat's answer into a response. Pure.

llama.cpp's server has the endpoint too, but leaves out what it does not know of: formats, forced calls, limits.
"""

import time
import uuid
from typing import Any, Final

from backfill.engines.builtin.members import Request, RequestRefused
from backfill.engines.builtin.pictures import PICTURE_PARTS, explain_part, read_picture

__all__ = ["make_chat", "make_response"]

_LOG_PROBS: Final = "message.output_text.logprobs"
_FORMATS: Final = ("text", "json_object", "json_schema")
_TEXT_PARTS: Final = ("input_text", "output_text", "text")
# These mean the same in both.
_SHARED: Final = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "ignore_eos",
    "logit_bias",
    "parallel_tool_calls",
)


def make_chat(request: Request, *, sees: bool = False) -> dict[str, Any]:
    """The members of the chat request that asks for the same. `sees`: whether the engine takes pictures.

    Raises:
        RequestRefused: the request asks for what a chat cannot give.

    """
    values = request.values
    chat = {name: value for name in _SHARED if (value := getattr(values, name)) is not None}
    chat["messages"] = _read_input(values.input, values.instructions, sees=sees)
    if values.max_output_tokens is not None:
        chat["max_tokens"] = values.max_output_tokens
    if (form := _read_format(values.text or {})) is not None:
        chat["response_format"] = form
    if values.tools:
        chat["tools"] = [_read_tool(tool, i) for i, tool in enumerate(values.tools)]
    if values.tool_choice is not None:
        chat["tool_choice"] = _read_choice(values.tool_choice)
    if values.top_logprobs or _LOG_PROBS in (values.include or ()):
        chat["logprobs"] = True
        chat["top_logprobs"] = values.top_logprobs or 0
    return chat


def make_response(answer: dict[str, Any], request: Request) -> dict[str, Any]:
    """The response that says what the chat's answer says."""
    values = request.values
    choice = answer["choices"][0]
    cut_off = choice["finish_reason"] == "length"
    now = int(time.time())
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": answer.get("created", now),
        "completed_at": None if cut_off else now,
        "status": "incomplete" if cut_off else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
        "instructions": values.instructions,
        "max_output_tokens": values.max_output_tokens,
        "metadata": values.metadata or {},
        "model": answer["model"],
        "output": _show_output(choice, "incomplete" if cut_off else "completed"),
        "parallel_tool_calls": values.parallel_tool_calls is not False,
        "previous_response_id": None,
        "temperature": values.temperature,
        "text": values.text or {"format": {"type": "text"}},
        "tool_choice": values.tool_choice or "auto",
        "tools": [{"parameters": None, "strict": None} | tool for tool in values.tools or ()],
        "top_logprobs": values.top_logprobs or 0,
        "top_p": values.top_p,
        "truncation": "disabled",
        "usage": _show_usage(answer["usage"]),
    }


def _read_input(
    given: str | list[dict[str, Any]] | None, instructions: str | None, *, sees: bool
) -> list[dict[str, Any]]:
    if given is None:
        raise RequestRefused("'input' is missing.", "input")
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for i, item in enumerate(given):
        message = _read_item(item, f"input[{i}]", sees=sees)
        calls_before = messages[-1].get("tool_calls") if messages else None
        if message is not None and calls_before and message.get("tool_calls"):
            # Calls that the model made at once are one message of a chat.
            calls_before += message["tool_calls"]
        elif message is not None:
            messages.append(message)
    return messages


def _read_item(item: dict[str, Any], where: str, *, sees: bool) -> dict[str, Any] | None:
    """The message; None for what a model thought, which templates leave out of later turns."""
    kind = item.get("type", "message")
    match kind:
        case "message":
            if item.get("role") not in ("system", "developer", "user", "assistant"):
                reason = f"'{where}.role' must be one of system, developer, user, assistant."
                raise RequestRefused(reason, f"{where}.role")
            return {"role": item["role"], "content": _read_content(item.get("content"), f"{where}.content", sees=sees)}
        case "function_call":
            called = {name: _read_string(item, name, where) for name in ("name", "arguments")}
            call = {"id": _read_string(item, "call_id", where), "type": "function", "function": called}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            text = _read_content(item.get("output"), f"{where}.output", sees=sees)
            return {"role": "tool", "tool_call_id": _read_string(item, "call_id", where), "content": text}
        case "reasoning":
            return None
        case _:
            reason = f"'{where}.type' must be message, function_call, function_call_output or reasoning."
            raise RequestRefused(reason, f"{where}.type")


def _read_string(item: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(item.get(name), str):
        raise RequestRefused(f"'{where}.{name}' must be a string.", f"{where}.{name}")
    return str(item[name])


def _read_content(content: object, where: str, *, sees: bool) -> str | list[dict[str, Any]]:
    """One text, or where there is a picture the parts as a chat has them."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestRefused(f"'{where}' must be a string or a list of parts.", where)
    parts = [_read_part(part, f"{where}[{i}]", sees=sees) for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _read_part(part: object, where: str, *, sees: bool) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and sees and kind in PICTURE_PARTS:
        return read_picture(part, where)
    name = "refusal" if kind == "refusal" else "text"
    if not isinstance(part, dict) or kind not in (*_TEXT_PARTS, "refusal") or not isinstance(part.get(name), str):
        raise RequestRefused(f"'{where}' {explain_part(kind, sees=sees)}", where)
    return {"type": "text", "text": part[name]}


def _read_format(text: dict[str, Any]) -> dict[str, Any] | None:
    for name, value in text.items():
        if name == "verbosity" and value in (None, "medium"):
            continue
        if name != "format":
            raise RequestRefused(f"'text.{name}' is not supported.", f"text.{name}", "unsupported_parameter")
    form = text.get("format")
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in _FORMATS:
        raise RequestRefused(f"'text.format.type' must be one of {', '.join(_FORMATS)}.", "text.format.type")
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(form.get("schema"), dict):
        raise RequestRefused("'text.format.schema' must be an object.", "text.format.schema")
    return {"type": kind, "json_schema": {"name": form.get("name", "answer"), "schema": form["schema"]}}


def _read_tool(tool: dict[str, Any], position: int) -> dict[str, Any]:
    where = f"tools[{position}]"
    if tool.get("type") != "function":
        raise RequestRefused(f"'{where}.type' must be function: the engine has no tools of its own.", f"{where}.type")
    function = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
    if not isinstance(function.get("name"), str):
        raise RequestRefused(f"'{where}.name' must be a string.", f"{where}.name")
    return {"type": "function", "function": function}


def _read_choice(choice: object) -> object:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _show_output(choice: dict[str, Any], status: str) -> list[dict[str, Any]]:
    message = choice["message"]
    output: list[dict[str, Any]] = []
    if thought := message.get("reasoning_content"):
        thoughts = [{"type": "reasoning_text", "text": thought}]
        output.append({"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": [], "content": thoughts})
    calls = message.get("tool_calls") or ()
    text = message.get("content")
    if text or not calls:
        part = {"type": "output_text", "annotations": [], "logprobs": _show_log_probs(choice), "text": text or ""}
        head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "status": status}
        output.append(head | {"content": [part]})
    for call in calls:
        head = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": status, "call_id": call["id"]}
        output.append(head | {name: call["function"][name] for name in ("name", "arguments")})
    return output


def _show_log_probs(choice: dict[str, Any]) -> list[dict[str, Any]]:
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return [
        _show_token(token) | {"top_logprobs": [_show_token(other) for other in token.get("top_logprobs") or ()]}
        for token in tokens
    ]


def _show_token(token: dict[str, Any]) -> dict[str, Any]:
    return {name: token[name] for name in ("token", "bytes", "logprob")}


def _show_usage(usage: dict[str, Any]) -> dict[str, Any]:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        # Nothing is ever asked to be kept.
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        # How many of them were thoughts, neither engine tells.
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
