"""Request bodies as clients of the OpenVINO host send them, checked and made into what is to be computed.

The shapes are OpenAI's; `top_k`, `min_p`, `repetition_penalty`, `ignore_eos`, `guided_json`, `guided_regex` and
`structured_outputs` are named as vLLM names them. What the engine cannot do is refused, never left out in silence;
members that nobody knows were refused before (`engines/builtin`). Pure: no I/O, and the engine's library is not loaded.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from backfill.engines.host_refusal import Refusal

__all__ = [
    "ChatPrompt",
    "Generation",
    "Grammar",
    "Sampling",
    "TextPrompt",
    "TokenPrompt",
    "fit_answer",
    "parse_chat",
    "parse_completion",
]

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_ANY_OBJECT: Final = '{"type":"object"}'
_SEED_MASK: Final = 2**64 - 1
_PATH = re.compile(r" - at `\$\.?(?P<param>[^`]*)`$")

_Count = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages that the model's chat template makes into text."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    settings: dict[str, Any]
    """What the template may ask for besides."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Text that the client has made into tokens already."""

    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer's text must match."""

    kind: Literal["json_schema", "regex"]
    text: str
    param: str
    """The member of the body it came from."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How each next token is chosen, and when to stop."""

    temperature: float
    """0: always the most probable token."""
    top_p: float
    top_k: int
    """0: no limit."""
    min_p: float
    seed: int | None
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    stop: tuple[str, ...]
    ignore_eos: bool
    grammar: Grammar | None


@dataclass(frozen=True, slots=True)
class Generation:
    """One checked request: for every prompt, `n` choices."""

    model: str
    """What the answer calls the model; empty where the request names none."""
    prompts: list[ChatPrompt | TextPrompt | TokenPrompt]
    sampling: Sampling
    n: int
    max_tokens: int | None
    max_tokens_param: str
    """The member of the body that `max_tokens` came from."""
    log_probs: bool
    stream: bool
    include_usage: bool
    """Whether a stream ends with a chunk that has the usage."""


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _JsonSchema(Struct):
    schema: dict[str, Any] | bool | None = None


class _ResponseFormat(Struct):
    type: str
    json_schema: _JsonSchema | None = None
    schema: dict[str, Any] | None = None
    """Together's place for it."""


class _Common(Struct):
    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: _Share | None = None
    seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    structured_outputs: dict[str, Any] | None = None
    logit_bias: dict[str, float] | None = None


class _Chat(_Common):
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)] = msgspec.field(default_factory=list)
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    chat_template_kwargs: dict[str, Any] | None = None


class _Completion(_Common):
    prompt: str | list[Any] | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    echo: bool | None = None
    suffix: str | None = None


_CHAT: Final = msgspec.json.Decoder(_Chat)
_COMPLETION: Final = msgspec.json.Decoder(_Completion)


def parse_chat(body: bytes) -> Generation:
    """A body of `/v1/chat/completions`.

    Raises:
        Refusal: it cannot be computed; nothing in it has been tried yet.

    """
    fields = _decode(_CHAT, body)
    if not fields.messages:
        raise Refusal("'messages' is missing.", "messages")
    if fields.top_logprobs:
        raise Refusal("'top_logprobs' must be 0: this engine tells the chosen token's logprob only.", "top_logprobs")
    messages = [_read_message(message, i) for i, message in enumerate(fields.messages)]
    prompt = ChatPrompt(messages, _read_tools(fields), fields.chat_template_kwargs or {})
    newer = fields.max_completion_tokens is not None
    return _finish(
        fields,
        [prompt],
        max_tokens=fields.max_completion_tokens if newer else fields.max_tokens,
        max_tokens_param="max_completion_tokens" if newer else "max_tokens",
        log_probs=bool(fields.logprobs),
    )


def parse_completion(body: bytes) -> Generation:
    """A body of `/v1/completions`.

    Raises:
        Refusal: it cannot be computed; nothing in it has been tried yet.

    """
    fields = _decode(_COMPLETION, body)
    if fields.logprobs:
        raise Refusal("'logprobs' must be 0 or null: this engine tells the chosen token's logprob only.", "logprobs")
    if fields.echo:
        raise Refusal("'echo' is not supported.", "echo")
    if fields.suffix:
        raise Refusal("'suffix' is not supported.", "suffix")
    return _finish(
        fields,
        _read_prompts(fields.prompt),
        max_tokens=fields.max_tokens,
        max_tokens_param="max_tokens",
        log_probs=fields.logprobs is not None,
    )


def fit_answer(generation: Generation, prompt_tokens: int, context_tokens: int) -> int:
    """How many tokens the answer may have: what was asked for, or what is left of the context.

    Raises:
        Refusal: prompt and answer do not fit into the context.

    """
    wanted = generation.max_tokens
    left = context_tokens - prompt_tokens
    if left < (wanted or 1):
        asked = f" and {generation.max_tokens_param} is {wanted}" if wanted else ""
        prompt_param = "messages" if isinstance(generation.prompts[0], ChatPrompt) else "prompt"
        # The tokenizer stops counting at the context's length.
        at_least = "at least " if left <= 0 else ""
        raise Refusal(
            f"The context is {context_tokens} tokens, prompt and answer together, but the prompt has"
            f" {at_least}{prompt_tokens} tokens{asked}.",
            generation.max_tokens_param if left >= 1 else prompt_param,
            "context_length_exceeded",
        )
    return wanted or left


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        what = str(error)[: found.start()] if found else str(error)
        param = found["param"] if found else None
        raise Refusal(f"'{param}': {what}." if param else f"The body is wrong: {what}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"The body is not JSON: {error}.") from None


def _finish(
    fields: _Common,
    prompts: list[ChatPrompt | TextPrompt | TokenPrompt],
    *,
    max_tokens: int | None,
    max_tokens_param: str,
    log_probs: bool,
) -> Generation:
    if fields.logit_bias:
        raise Refusal("'logit_bias' is not supported.", "logit_bias")
    options = fields.stream_options
    return Generation(
        model=fields.model or "",
        prompts=prompts,
        sampling=_read_sampling(fields),
        n=fields.n or 1,
        max_tokens=max_tokens,
        max_tokens_param=max_tokens_param,
        log_probs=log_probs,
        stream=bool(fields.stream),
        include_usage=bool(options and options.include_usage),
    )


def _read_sampling(fields: _Common) -> Sampling:
    stop = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    return Sampling(
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=max(fields.top_k or 0, 0),
        min_p=fields.min_p or 0.0,
        seed=None if fields.seed is None else fields.seed & _SEED_MASK,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        stop=tuple(text for text in stop if text),
        ignore_eos=bool(fields.ignore_eos),
        grammar=_read_grammar(fields),
    )


def _read_grammar(fields: _Common) -> Grammar | None:
    found = [*_read_response_format(fields.response_format), *_read_structured_outputs(fields.structured_outputs)]
    if fields.guided_json is not None:
        found.append(_as_schema(fields.guided_json, "guided_json"))
    if fields.guided_regex is not None:
        found.append(Grammar("regex", fields.guided_regex, "guided_regex"))
    if len(found) > 1:
        names = ", ".join(f"'{grammar.param}'" for grammar in found)
        raise Refusal(f"Only one of {names} may be given.", found[1].param)
    return found[0] if found else None


def _read_response_format(form: _ResponseFormat | None) -> list[Grammar]:
    if form is None or form.type == "text":
        return []
    if form.type in ("json_object", "json_schema") and form.schema is not None:
        return [_as_schema(form.schema, "response_format.schema")]
    if form.type == "json_object":
        return [Grammar("json_schema", _ANY_OBJECT, "response_format")]
    if form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema is None:
            raise Refusal("'response_format.json_schema.schema' is missing.", "response_format.json_schema.schema")
        return [_as_schema(form.json_schema.schema, "response_format.json_schema.schema")]
    raise Refusal("'response_format.type' must be text, json_object or json_schema.", "response_format.type")


def _read_structured_outputs(outputs: dict[str, Any] | None) -> list[Grammar]:
    found = []
    for name, value in (outputs or {}).items():
        param = f"structured_outputs.{name}"
        if value is None:
            continue
        if name == "json":
            found.append(_as_schema(value, param))
        elif name == "regex" and isinstance(value, str):
            found.append(Grammar("regex", value, param))
        else:
            raise Refusal("'structured_outputs' may hold 'json' (a schema) or 'regex' (a string).", param)
    return found


def _as_schema(schema: Any, param: str) -> Grammar:
    text = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    return Grammar("json_schema", text, param)


def _read_message(message: dict[str, Any], position: int) -> dict[str, Any]:
    where = f"messages[{position}]"
    role = message.get("role")
    if role not in _ROLES:
        raise Refusal(f"'{where}.role' must be one of {', '.join(_ROLES)}.", f"{where}.role")
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""
    # OpenAI renamed system to developer; templates know the older name.
    return message | {"role": "system" if role == "developer" else role, "content": _read_content(content, where)}


def _read_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refusal(f"'{where}.content' must be a string or a list of text parts.", f"{where}.content")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            named = f"of type {kind!r}" if isinstance(kind, str) else "without a type"
            reason = f"'{where}.content[{i}]' is a part {named}; this engine takes text parts only."
            raise Refusal(reason, f"{where}.content[{i}]")
        texts.append(part["text"])
    return "".join(texts)


def _read_tools(fields: _Chat) -> list[dict[str, Any]]:
    choice = fields.tool_choice
    if choice not in (None, "auto", "none"):
        raise Refusal("'tool_choice' must be auto or none: this engine cannot force a call.", "tool_choice")
    return [] if choice == "none" else fields.tools or []


def _read_prompts(prompt: str | list[Any] | None) -> list[ChatPrompt | TextPrompt | TokenPrompt]:
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if not prompt:
        raise Refusal("'prompt' is missing.", "prompt")
    if _is_token_list(prompt):
        return [TokenPrompt(prompt)]
    if all(isinstance(item, str) for item in prompt):
        return [TextPrompt(item) for item in prompt]
    if all(isinstance(item, list) and _is_token_list(item) for item in prompt):
        return [TokenPrompt(item) for item in prompt]
    raise Refusal("'prompt' must be a string, a list of strings, a list of tokens or a list of such lists.", "prompt")


def _is_token_list(items: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in items)
