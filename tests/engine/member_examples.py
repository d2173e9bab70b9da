"""For every member of a request an example, and what shows in the answer that it was honoured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

__all__ = ["HONOURED", "REFUSED", "UNFELT", "Example", "make_base", "read_text"]

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
SCHEMA: Final = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FUNCTION: Final = {"name": "paint", "description": "Paints the wall.", "parameters": SCHEMA}
OTHER_FUNCTION: Final = {"name": "wait"}
# Hot enough that no answer is like another.
HOT: Final = {"temperature": 3, "seed": 7}
YES: Final = "Say yes yes yes yes yes yes yes yes yes yes."
_BASES: Final[dict[str, dict[str, Any]]] = {
    CHAT: {"messages": [{"role": "user", "content": YES}], "temperature": 0, "max_tokens": 16},
    COMPLETIONS: {"prompt": YES, "temperature": 0, "max_tokens": 16},
    EMBEDDINGS: {"input": "one two"},
    RESPONSES: {"input": YES, "temperature": 0, "max_output_tokens": 16},
}


def make_base(endpoint: str) -> dict[str, Any]:
    """A request that every engine with the endpoint answers the same way each time."""
    return {"model": "m"} | _BASES[endpoint]


def read_text(answer: Any) -> str:
    """What the model wrote, or the vector, as text."""
    if "data" in answer:
        return str(answer["data"])
    if "choices" in answer:
        choice = answer["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    parts = [part["text"] for item in answer["output"] for part in item.get("content", ())]
    return "".join(parts)


def _is_coloured(answer: Any) -> bool:
    return msgspec.json.decode(read_text(answer)) in ({"colour": "red"}, {"colour": "blue"})


def _calls(answer: Any) -> bool:
    if "output" in answer:
        (call,) = answer["output"]
        assert call["type"] == "function_call"
        return call["name"] == "paint" and "colour" in msgspec.json.decode(call["arguments"])
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    arguments = msgspec.json.decode(call["function"]["arguments"])
    return call["function"]["name"] == "paint" and "colour" in arguments


def _count_output(answer: Any) -> int:
    usage = answer["usage"]
    return int(usage.get("completion_tokens") or usage.get("output_tokens"))


def _has_log_probs(answer: Any) -> bool:
    if "output" in answer:
        tokens = answer["output"][0]["content"][0]["logprobs"]
        return len(tokens) == _count_output(answer) and all(token["logprob"] <= 0 for token in tokens)
    found = answer["choices"][0]["logprobs"]
    tokens = found["content"] if "content" in found else found["tokens"]
    return len(tokens) == _count_output(answer)


def _has_two_others(answer: Any) -> bool:
    if "output" in answer:
        tokens = answer["output"][0]["content"][0]["logprobs"]
    else:
        tokens = answer["choices"][0]["logprobs"]["content"]
    return bool(tokens) and all(len(token["top_logprobs"]) == 2 for token in tokens)


@dataclass(frozen=True)
class Example:
    """What is added to the base request, and what the answer must then show."""

    members: dict[str, Any]
    shows: Callable[[Any], bool] | None = None
    """None: that it is another text than without the member."""

    def leave_out(self, name: str) -> dict[str, Any]:
        """The same without the member, and without what cannot stand alone."""
        gone = {name, "tools", "tool_choice"} if "tools" in self.members else {name}
        gone |= {"top_logprobs"} if name == "logprobs" else set()
        return {key: value for key, value in self.members.items() if key not in gone}


def _force(choice: Any = "required", **more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": choice, "max_tokens": 60} | more


_TOOL: Final = {"type": "function"} | FUNCTION
_RESPONSE_FORCE: Final = {"tools": [_TOOL], "tool_choice": "required", "max_output_tokens": 60}
_SCHEMA_FORM: Final = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
_COMMON: Final = {
    "model": Example({"model": "other"}, lambda answer: answer["model"] == "other"),
    "temperature": Example({"temperature": 3}),
    "top_p": Example(HOT | {"top_p": 0.000001}),
    "top_k": Example(HOT | {"top_k": 1}),
    "min_p": Example(HOT | {"min_p": 0.99}),
    "seed": Example(HOT),
    "presence_penalty": Example({"presence_penalty": 2, "ignore_eos": True}),
    "frequency_penalty": Example({"frequency_penalty": 2, "ignore_eos": True}),
    "repetition_penalty": Example({"repetition_penalty": 3}),
    "logit_bias": Example({"logit_bias": {str(token): -100 for token in range(2000)}}),
}
_GENERATION: Final = _COMMON | {
    "presence_penalty": Example({"presence_penalty": 2, "ignore_eos": True, "max_tokens": 48}),
    "frequency_penalty": Example({"frequency_penalty": 2, "ignore_eos": True, "max_tokens": 48}),
    "n": Example({"n": 2}, lambda answer: len(answer["choices"]) == 2),
    "max_tokens": Example({"max_tokens": 3}, lambda answer: _count_output(answer) == 3),
    "stop": Example({"stop": ["a", "e"]}, lambda answer: not {"a", "e"} & set(read_text(answer))),
    "ignore_eos": Example({"ignore_eos": True, "max_tokens": 64}, lambda answer: _count_output(answer) == 64),
    "response_format": Example({"response_format": _SCHEMA_FORM, "max_tokens": 60}, _is_coloured),
    "guided_json": Example({"guided_json": SCHEMA, "max_tokens": 60}, _is_coloured),
    "structured_outputs": Example({"structured_outputs": {"json": SCHEMA}, "max_tokens": 60}, _is_coloured),
    "guided_regex": Example({"guided_regex": "[xyz]{4}"}, lambda answer: set(read_text(answer)) <= set("xyz")),
    "grammar": Example({"grammar": 'root ::= "xyz"'}, lambda answer: read_text(answer) == "xyz"),
    "json_schema": Example({"json_schema": SCHEMA, "max_tokens": 60}, _is_coloured),
    "typical_p": Example(HOT | {"typical_p": 0.01}),
    "repeat_penalty": Example({"repeat_penalty": 3}),
    "repeat_last_n": Example({"repeat_penalty": 3, "repeat_last_n": 0}),
}

HONOURED: Final[dict[str, dict[str, Example]]] = {
    CHAT: _GENERATION
    | {
        "messages": Example({"messages": [{"role": "user", "content": "What is a cow?"}]}, bool),
        "max_completion_tokens": Example({"max_completion_tokens": 3}, lambda answer: _count_output(answer) == 3),
        "logprobs": Example({"logprobs": True, "ignore_eos": True}, _has_log_probs),
        "top_logprobs": Example({"logprobs": True, "top_logprobs": 2}, _has_two_others),
        "tools": Example(_force(tools=[{"type": "function", "function": one} for one in (FUNCTION,)]), _calls),
        "tool_choice": Example(_force({"type": "function", "function": {"name": "paint"}}), _calls),
        "parallel_tool_calls": Example(_force(parallel_tool_calls=False), _calls),
        # The packaged model's template asks for nothing.
        "chat_template_kwargs": Example({"chat_template_kwargs": {"enable_thinking": False}}, bool),
    },
    COMPLETIONS: _GENERATION
    | {
        "prompt": Example({"prompt": [5248, 19556]}, lambda answer: answer["usage"]["prompt_tokens"] == 2),
        "best_of": Example({"best_of": 2, "n": 2}, lambda answer: len(answer["choices"]) == 2),
        "logprobs": Example({"logprobs": 0, "ignore_eos": True}, _has_log_probs),
    },
    EMBEDDINGS: {
        "model": _COMMON["model"],
        "input": Example({"input": ["one", "two"]}, lambda answer: len(answer["data"]) == 2),
        "encoding_format": Example(
            {"encoding_format": "base64"}, lambda answer: isinstance(answer["data"][0]["embedding"], str)
        ),
    },
    RESPONSES: _COMMON
    | {
        "input": Example({"input": [{"role": "user", "content": "What is a cow?"}]}, bool),
        "instructions": Example({"instructions": "You are a pirate."}),
        "max_output_tokens": Example({"max_output_tokens": 3}, lambda answer: _count_output(answer) == 3),
        "stop": Example({"stop": ["a", "e"]}, lambda answer: not {"a", "e"} & set(read_text(answer))),
        "ignore_eos": Example(
            {"ignore_eos": True, "max_output_tokens": 64}, lambda answer: _count_output(answer) == 64
        ),
        "text": Example(
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}, "max_output_tokens": 60},
            _is_coloured,
        ),
        "tools": Example(_RESPONSE_FORCE, _calls),
        "tool_choice": Example(_RESPONSE_FORCE | {"tool_choice": {"type": "function", "name": "paint"}}, _calls),
        "parallel_tool_calls": Example(_RESPONSE_FORCE | {"parallel_tool_calls": False}, _calls),
        "include": Example({"include": ["message.output_text.logprobs"]}, _has_log_probs),
        "top_logprobs": Example({"top_logprobs": 2}, _has_two_others),
        "metadata": Example({"metadata": {"a": "b"}}, lambda answer: answer["metadata"] == {"a": "b"}),
    },
}

UNFELT: Final[dict[str, Any]] = {
    "cache_prompt": False,
    "id_slot": 1,
    "max_tool_calls": 1,
    "metadata": {"a": "b"},
    "prediction": {"type": "content", "content": "yes"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "stream_options": {"include_usage": True},
    "user": "u",
}
"""Values of members that have no effect."""

REFUSED: Final[dict[str, Any]] = {
    "access_programs": {"cyber": "standard"},
    "audio": {"voice": "alloy", "format": "mp3"},
    "background": True,
    "background_options": {},
    "compliance": "hipaa",
    "context_length_exceeded_behavior": "truncate",
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "dimensions": 8,
    "echo": True,
    "function_call": {"name": "paint"},
    "functions": [FUNCTION],
    "guided_regex": "a",
    "image": {},
    "logit_bias": {"5": 1},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "previous_response_id": "resp_1",
    "prompt": {"id": "pmpt_1"},
    "reasoning": {"effort": "low"},
    "reasoning_effort": "low",
    "safety_model": "guard",
    "stream": True,
    "suffix": "end",
    "top_logprobs": 1,
    "truncation": "auto",
    "verbosity": "low",
    "web_search_options": {},
}
"""Values of members that are refused."""
