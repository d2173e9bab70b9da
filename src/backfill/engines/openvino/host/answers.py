"""The answers of the OpenVINO host in OpenAI's shapes, as compact JSON. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

__all__ = ["DONE", "AnswerHead", "ChoiceText", "TokenLogProb", "Usage", "render_answer", "render_chunk"]

DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What is the same in an answer and in every chunk of a stream."""

    kind: Literal["chat", "completion"]
    id: str
    created_s: int
    """Unix time."""
    model: str


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """A token of the answer and how probable it was."""

    token: bytes
    log_prob: float


@dataclass(frozen=True, slots=True)
class ChoiceText:
    """A choice, or the piece of one that a chunk brings."""

    index: int
    text: str
    finish_reason: str | None
    log_probs: Sequence[TokenLogProb] | None
    """None: not asked for."""
    is_first: bool = False
    """Whether a stream begins with this piece."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the whole request."""

    prompt_tokens: int
    completion_tokens: int


def render_answer(head: AnswerHead, choices: Sequence[ChoiceText], usage: Usage) -> bytes:
    """The body of an answer that is not streamed."""
    name = "chat.completion" if head.kind == "chat" else "text_completion"
    shown = [_show_chat(c, "message") if head.kind == "chat" else _show_completion(c) for c in choices]
    return msgspec.json.encode(_show_head(head, name) | {"choices": shown, "usage": _show_usage(usage)})


def render_chunk(
    head: AnswerHead, choices: Sequence[ChoiceText], usage: Usage | None = None, *, with_usage: bool
) -> bytes:
    """One event of a stream. `with_usage`: the client asked for usage, which is null but in the last chunk."""
    name = "chat.completion.chunk" if head.kind == "chat" else "text_completion"
    shown = [_show_chat(c, "delta") if head.kind == "chat" else _show_completion(c) for c in choices]
    chunk = _show_head(head, name) | {"choices": shown}
    if with_usage:
        chunk["usage"] = None if usage is None else _show_usage(usage)
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _show_head(head: AnswerHead, name: str) -> dict[str, Any]:
    return {"id": head.id, "object": name, "created": head.created_s, "model": head.model}


def _show_usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _show_chat(choice: ChoiceText, member: Literal["message", "delta"]) -> dict[str, Any]:
    log_probs = None if choice.log_probs is None else {"content": [_show_log_prob(item) for item in choice.log_probs]}
    content: dict[str, Any] = {"content": choice.text}
    if member == "message" or choice.is_first:
        content = {"role": "assistant"} | content
    elif choice.finish_reason and not choice.text:
        content = {}
    return {"index": choice.index, member: content, "logprobs": log_probs, "finish_reason": choice.finish_reason}


def _show_log_prob(item: TokenLogProb) -> dict[str, Any]:
    return {
        "token": item.token.decode(errors="replace"),
        "logprob": item.log_prob,
        "bytes": list(item.token),
        "top_logprobs": [],
    }


def _show_completion(choice: ChoiceText) -> dict[str, Any]:
    log_probs = None if choice.log_probs is None else _show_token_columns(choice.log_probs)
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": log_probs,
        "finish_reason": choice.finish_reason,
    }


def _show_token_columns(items: Sequence[TokenLogProb]) -> dict[str, Any]:
    tokens = [item.token.decode(errors="replace") for item in items]
    offsets, offset = [], 0
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [item.log_prob for item in items],
        "top_logprobs": None,
        "text_offset": offsets,
    }
