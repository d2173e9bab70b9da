"""What each built-in engine does with each member of a request; `docs/members.md` shows the same.

The members are those of the openai package's request types, Together's own, and those of vLLM's and llama.cpp's that
are honoured. What is not here is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from backfill.engines.builtin.members import Member, MemberTable, has_no_effect, honoured, refused

__all__ = ["TABLES", "Engine"]

Engine = Literal["openvino", "llamacpp"]

_Count = Annotated[int, Meta(ge=1)]
_Choices = Annotated[int, Meta(ge=1, le=128)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Objects = list[dict[str, Any]]
_Some = Annotated[list[dict[str, Any]], Meta(min_length=1)]

_NOT_STREAMED: Final = refused("must be false: a batch's answers come whole", False)
_NOT_SEEN: Final = "is not supported: the engine reads and writes text only"
_NO_REASONING: Final = "is not supported: how long a model thinks cannot be set"
_NO_LOOKUP: Final = "is not supported: no answer is kept on the server"

# Whose request it is, what it is to cost and where it is kept: none of it reaches the model.
_BOOKKEEPING: Final = {
    name: has_no_effect()
    for name in (
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    )
}

_SAMPLING: Final = {
    "model": honoured(str),
    "temperature": honoured(Annotated[float, Meta(ge=0, le=100)]),
    "top_p": honoured(Annotated[float, Meta(gt=0, le=1)]),
    "top_k": honoured(Annotated[int, Meta(ge=-1)]),
    "min_p": honoured(Annotated[float, Meta(ge=0, lt=1)]),
    "seed": honoured(int),
    "presence_penalty": honoured(_Penalty),
    "frequency_penalty": honoured(_Penalty),
    "repetition_penalty": honoured(Annotated[float, Meta(gt=0)]),
    "stop": honoured(str | list[str]),
    "ignore_eos": honoured(bool),
}

_GENERATION: Final = _SAMPLING | {
    "n": honoured(_Choices),
    "max_tokens": honoured(_Count),
    "response_format": honoured(dict[str, Any]),
    "guided_json": honoured(dict[str, Any] | bool | str),
    "structured_outputs": honoured(dict[str, Any]),
    "stream": _NOT_STREAMED,
    "safety_model": refused("is not supported: there is no such model here"),
}

_CHAT: Final = (
    _BOOKKEEPING
    | _GENERATION
    | {
        "messages": honoured(_Some),
        "max_completion_tokens": honoured(_Count),
        "logprobs": honoured(bool),
        "tools": honoured(_Objects),
        "tool_choice": honoured(str | dict[str, Any]),
        "parallel_tool_calls": honoured(bool, "a forced call is always one"),
        "chat_template_kwargs": honoured(dict[str, Any]),
        "prediction": has_no_effect("it could only make the answer come faster"),
        "audio": refused(_NOT_SEEN),
        "modalities": refused(_NOT_SEEN, ["text"]),
        "functions": refused("is not supported: use 'tools'", []),
        "function_call": refused("is not supported: use 'tool_choice'", "auto", "none"),
        "reasoning_effort": refused(_NO_REASONING),
        "reasoning": refused(_NO_REASONING, {}),
        "verbosity": refused("is not supported: how much a model writes cannot be set", "medium"),
        "moderation": refused("is not supported: there is no such model here"),
        "web_search_options": refused("is not supported: the engine reaches no network"),
        "echo": refused("is not supported", False),
        "compliance": refused("is not supported"),
        "context_length_exceeded_behavior": refused("must be error: nothing is cut off a request", "error"),
    }
)

_COMPLETIONS: Final = (
    {"user": has_no_effect(), "stream_options": has_no_effect()}
    | _GENERATION
    | {
        "prompt": honoured(str | list[Any]),
        "best_of": honoured(_Choices),
        "echo": refused("is not supported: prompts are not repeated", False),
        "suffix": refused("is not supported: the engine fills no gaps", ""),
    }
)

_OPENVINO_ONLY: Final = {
    "guided_regex": honoured(str),
    "logit_bias": refused("is not supported: OpenVINO's library cannot weigh tokens", {}),
}
_OPENVINO_LOG_PROBS: Final = "must be 0: OpenVINO's library tells the chosen token's logprob only"
_LOG_PROBS: Final = honoured(Annotated[int, Meta(ge=0, le=20)])

_LLAMACPP_ONLY: Final = {
    "logit_bias": honoured(dict[Annotated[str, Meta(pattern=r"^\d+$")], float]),
    "guided_regex": refused("is not supported: llama.cpp follows JSON schemas and its own grammars"),
    "grammar": honoured(str),
    "json_schema": honoured(dict[str, Any]),
    "typical_p": honoured(_Share),
    "repeat_penalty": honoured(Annotated[float, Meta(gt=0)]),
    "repeat_last_n": honoured(Annotated[int, Meta(ge=0, le=65_536)]),
    "cache_prompt": has_no_effect(),
    "id_slot": has_no_effect(),
}

_EMBEDDINGS: Final = {
    "model": honoured(str),
    "input": honoured(str | list[Any]),
    "encoding_format": honoured(Literal["float", "base64"]),
    "dimensions": refused("is not supported: the model has one length of vector"),
    "user": has_no_effect(),
}

_RESPONSES: Final = (
    _BOOKKEEPING
    | _SAMPLING
    | {
        "input": honoured(str | _Some),
        "instructions": honoured(str),
        "max_output_tokens": honoured(_Count),
        "text": honoured(dict[str, Any]),
        "tools": honoured(_Objects),
        "tool_choice": honoured(str | dict[str, Any]),
        "parallel_tool_calls": honoured(bool),
        "include": honoured(list[str], "`message.output_text.logprobs`; the others are of tools that are refused"),
        "top_logprobs": honoured(Annotated[int, Meta(ge=0, le=20)]),
        "metadata": honoured(dict[str, str]),
        "logit_bias": _LLAMACPP_ONLY["logit_bias"],
        "max_tool_calls": has_no_effect("it counts tools that are refused"),
        "stream": _NOT_STREAMED,
        "background": refused("must be false: a batch waits for its answers by itself", False),
        "background_options": refused("is not supported: a batch waits for its answers by itself"),
        "conversation": refused(_NO_LOOKUP),
        "previous_response_id": refused(_NO_LOOKUP),
        "prompt": refused("is not supported: no prompts are kept on the server"),
        "reasoning": refused(_NO_REASONING, {}),
        "truncation": refused("must be disabled: nothing is cut off a request", "disabled"),
        "context_management": refused("is not supported: nothing is cut off a request", []),
        "image": refused(_NOT_SEEN),
        "moderation": refused("is not supported: there is no such model here"),
        "access_programs": refused("is not supported"),
    }
)


def _make(endpoint: str, *parts: Mapping[str, Member]) -> MemberTable:
    return MemberTable(endpoint, {name: member for part in parts for name, member in part.items()})


_OPENVINO: Final = (
    _make("/v1/chat/completions", _CHAT, _OPENVINO_ONLY, {"top_logprobs": refused(_OPENVINO_LOG_PROBS, 0)}),
    _make(
        "/v1/completions",
        _COMPLETIONS,
        _OPENVINO_ONLY,
        {"logprobs": honoured(Annotated[int, Meta(ge=0)], _OPENVINO_LOG_PROBS)},
    ),
)
_LLAMACPP: Final = (
    _make("/v1/chat/completions", _CHAT, _LLAMACPP_ONLY, {"top_logprobs": _LOG_PROBS}),
    _make("/v1/completions", _COMPLETIONS, _LLAMACPP_ONLY, {"logprobs": _LOG_PROBS}),
    _make("/v1/embeddings", _EMBEDDINGS),
    _make("/v1/responses", _RESPONSES),
)

TABLES: Final[Mapping[Engine, Mapping[str, MemberTable]]] = {
    "openvino": {table.endpoint: table for table in _OPENVINO},
    "llamacpp": {table.endpoint: table for table in _LLAMACPP},
}
"""By engine and endpoint."""
