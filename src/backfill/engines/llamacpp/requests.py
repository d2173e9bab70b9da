"""What llama.cpp's server gets wrong about a request, put right before and after: pure, from bytes to bytes.

- Several choices (`n`, or a list of prompts) are answered, but their usage counts the first only, and `n` is capped
  at the number of slots. So each choice is asked for by itself, and the answers are merged.
- An `image_url` is fetched by the engine, from wherever it points to. So each content part is refused here but text
  and, where there is a projector, pictures in data: URLs.
- The answer names the model by the server's alias; it is given the id that the request used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from backfill.engines.answer import count_usage
from backfill.engines.interpret import refuse
from backfill.engines.reply import Refused

__all__ = ["Plan", "merge_answers", "name_member", "name_model", "plan_calls"]

_CHOICES_MAX = 128
_CALLS_MAX = 2048
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_texts = msgspec.json.Decoder(list[msgspec.Raw])


class _Request(msgspec.Struct):
    model: object = None
    n: object = None
    seed: object = None
    prompt: object = None
    messages: object = None
    input: object = None
    stop: object = None
    logprobs: object = None
    tools: object = None


_request = msgspec.json.Decoder(_Request)


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls that make up one request."""

    model: str | None
    bodies: tuple[bytes, ...]
    choices: int = 1
    """Calls for the same prompt; they stand side by side."""
    is_streamed: bool = False
    """Whether a stream tells all that a whole answer would (`streams`)."""


def plan_calls(body: bytes, *, sees: bool = False) -> Plan | Refused:
    """The calls for a chat or completions request, or why there are none. `sees`: whether there is a projector."""
    try:
        body.decode()
        request = _request.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return refuse("The request body is not a JSON object in UTF-8.")
    kind = _find_media(request.messages, sees=sees) or _find_media(request.input, sees=sees)
    if kind is not None:
        return refuse(f"The built-in engine cannot take content of type {kind}.")
    model = request.model if isinstance(request.model, str) else None
    choices = request.n if type(request.n) is int and request.n > 1 else 1
    prompts = _count_prompts(request.prompt)
    if choices > _CHOICES_MAX or choices * prompts > _CALLS_MAX:
        return refuse(f"At most {_CHOICES_MAX} choices a prompt and {_CALLS_MAX} a request can be asked for.")
    is_streamed = not (request.stop or request.tools or (request.messages and request.logprobs))
    if choices * prompts == 1:
        return Plan(model, (body,), is_streamed=is_streamed)
    seed = request.seed if type(request.seed) is int and request.seed >= 0 else None
    return Plan(model, _split(body, prompts, choices, seed), choices, is_streamed)


def merge_answers(answers: Sequence[bytes], choices: int) -> bytes:
    """One answer of many: choices numbered through, a prompt's tokens counted once, an answer's always.

    Raises:
        ValueError: an answer has no list of choices.

    """
    merged = _object.decode(answers[0])
    # The first call's timings say nothing of the whole.
    merged.pop("timings", None)
    found: list[dict[str, msgspec.Raw]] = []
    for answer in answers:
        for choice in _choices.decode(_object.decode(answer).get("choices", msgspec.Raw(b"null"))):
            choice["index"] = msgspec.Raw(str(len(found)).encode())
            found.append(choice)
    usages = [count_usage(answer) for answer in answers]
    prompt_tokens = sum(usage.prompt_tokens for usage in usages[::choices])
    cached_tokens = sum(usage.cached_tokens for usage in usages[::choices])
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    usage = {
        "completion_tokens": completion_tokens,
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
    merged["choices"] = msgspec.Raw(msgspec.json.encode(found))
    merged["usage"] = msgspec.Raw(msgspec.json.encode(usage))
    return msgspec.json.encode(merged)


def name_model(answer: bytes, alias: str, model: str) -> bytes:
    """The answer with `model` where it says `alias`.

    Inside a string the quotes would be escaped, so the first match is the member itself.
    """
    return answer.replace(*name_member(alias, model), 1)


def name_member(alias: str, model: str) -> tuple[bytes, bytes]:
    """The member as the server writes it, and as it is to be."""
    member = b'"model":%s'
    return member % msgspec.json.encode(alias), member % msgspec.json.encode(model)


def _find_media(messages: object, *, sees: bool) -> str | None:
    """The type of the first content part that is not taken, as it stands in a message."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in _TEXT_PARTS and not (sees and kind == "image_url" and _is_in_place(part)):
                return repr(kind)[:80]
    return None


def _is_in_place(part: dict[str, object]) -> bool:
    picture = part.get("image_url")
    url = picture.get("url") if isinstance(picture, dict) else None
    return isinstance(url, str) and url[:5].lower() == "data:"


def _count_prompts(prompt: object) -> int:
    # A list with numbers in it is one prompt, given as tokens.
    if isinstance(prompt, list) and prompt and not any(isinstance(part, (int, float)) for part in prompt):
        return len(prompt)
    return 1


def _split(body: bytes, prompts: int, choices: int, seed: int | None) -> tuple[bytes, ...]:
    members = _object.decode(body)
    texts = _texts.decode(members["prompt"]) if prompts > 1 else [members.get("prompt")]
    members["n"] = msgspec.Raw(b"1")
    bodies = []
    for text in texts:
        if text is not None:
            members["prompt"] = text
        for choice in range(choices):
            if seed is not None:
                # The same seed would give the same text every time.
                members["seed"] = msgspec.Raw(str(seed + choice).encode())
            bodies.append(msgspec.json.encode(members))
    return tuple(bodies)
