"""Requests to a built-in engine that somebody waits for, as a stream if they ask for one. Pure.

The engines stream what they compute. What is put right after them is put right in a whole answer: it is then told as a
stream of few events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from backfill.engines.answer import decode_object
from backfill.engines.builtin.exchange import TEXT_ONLY, Abilities, Exchange, Translate, open_exchange
from backfill.engines.builtin.tables import Engine
from backfill.engines.forwarding import WholeAnswer, answer_reply
from backfill.engines.reply import Answered, Refused, Reply

__all__ = ["LiveExchange", "open_live"]

_EVENTS: Final = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
_DONE: Final = b"data: [DONE]\n\n"
_CHAT: Final = "/v1/chat/completions"
_RESPONSES: Final = "/v1/responses"
_TRUE: Final = b"true"


@dataclass(frozen=True, slots=True)
class LiveExchange:
    """What to send to the engine for a request, and what to make of its answer."""

    exchange: Exchange
    """The request as if it asked for a whole answer."""
    asked: str
    """The endpoint that was asked."""
    is_stream: bool = False
    stream_body: bytes = b""
    """What to send for a stream; empty where the engine's own would not do."""
    with_usage: bool = False

    def close(self, reply: Reply) -> WholeAnswer:
        """The answer, made of the engine's whole one.

        Raises:
            EngineUnavailable: it was lost.

        """
        reply = self.exchange.close(reply)
        if not self.is_stream or not isinstance(reply, Answered):
            return answer_reply(reply)
        answer = msgspec.json.decode(reply.body)
        events = _tell_response(answer) if self.asked == _RESPONSES else self._tell(answer)
        return WholeAnswer(200, events, _EVENTS)

    def _tell(self, answer: dict[str, Any]) -> Iterator[bytes]:
        usage = answer.pop("usage", None)
        is_chat = self.asked == _CHAT
        head = answer | {"object": "chat.completion.chunk" if is_chat else "text_completion"}
        if self.with_usage:
            head["usage"] = None
        for choice in answer["choices"]:
            pieces = _split_choice(choice) if is_chat else (choice,)
            yield from (_render(head | {"choices": [piece]}) for piece in pieces)
        if self.with_usage:
            yield _render(head | {"choices": [], "usage": usage})
        yield _DONE


def open_live(
    engine: Engine, endpoint: str, body: bytes, *, translate: Translate | None = None, abilities: Abilities = TEXT_ONLY
) -> LiveExchange | Refused:
    """What to send for this request, or why it is refused."""
    try:
        members = decode_object(body)
    except ValueError:
        members = {}
    stream = members.pop("stream", msgspec.Raw(b"false"))
    if bytes(stream) != _TRUE:
        exchange = open_exchange(engine, endpoint, body, translate=translate, abilities=abilities)
        return exchange if isinstance(exchange, Refused) else LiveExchange(exchange, endpoint)
    options = members.pop("stream_options", None)
    plain = msgspec.json.encode(members)
    exchange = open_exchange(engine, endpoint, plain, translate=translate, abilities=abilities)
    if isinstance(exchange, Refused):
        return exchange
    stream_body = b""
    if not exchange.finish:
        stream_body = body if exchange.body == plain else _ask_for_stream(exchange.body, options)
    with_usage = options is not None and _wants_usage(options)
    return LiveExchange(exchange, endpoint, is_stream=True, stream_body=stream_body, with_usage=with_usage)


def _ask_for_stream(body: bytes, options: msgspec.Raw | None) -> bytes:
    members = decode_object(body) | {"stream": msgspec.Raw(_TRUE)}
    if options is not None:
        members["stream_options"] = options
    return msgspec.json.encode(members)


def _wants_usage(options: msgspec.Raw) -> bool:
    found = msgspec.json.decode(options)
    return isinstance(found, dict) and found.get("include_usage") is True


def _split_choice(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The whole message in one delta, and then the end."""
    message = dict(choice["message"])
    if message.get("tool_calls"):
        message["tool_calls"] = [call | {"index": i} for i, call in enumerate(message["tool_calls"])]
    logprobs = choice.get("logprobs")
    yield {"index": choice["index"], "delta": message, "logprobs": logprobs, "finish_reason": None}
    yield {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice.get("finish_reason")}


def _render(event: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _tell_response(response: dict[str, Any]) -> Iterator[bytes]:
    """The events of OpenAI's Responses API, in their order, each with what of it the whole response holds."""
    begun = response | {"status": "in_progress", "output": [], "usage": None, "completed_at": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for i, item in enumerate(response["output"]):
        empty = item | {name: [] for name in ("content", "summary") if name in item} | {"status": "in_progress"}
        events.append({"type": "response.output_item.added", "output_index": i, "item": empty})
        events += _tell_item(i, item)
        events.append({"type": "response.output_item.done", "output_index": i, "item": item})
    events.append({"type": f"response.{response['status']}", "response": response})
    for number, event in enumerate(events):
        body = msgspec.json.encode(event | {"sequence_number": number})
        yield b"event: " + event["type"].encode() + b"\ndata: " + body + b"\n\n"


def _tell_item(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    where = {"item_id": item["id"], "output_index": index}
    if item["type"] == "function_call":
        told = where | {"name": item["name"]}
        yield where | {"type": "response.function_call_arguments.delta", "delta": item["arguments"]}
        yield told | {"type": "response.function_call_arguments.done", "arguments": item["arguments"]}
    if item["type"] != "message":
        return
    for i, part in enumerate(item["content"]):
        place = where | {"content_index": i}
        log_probs = part.get("logprobs", [])
        yield place | {"type": "response.content_part.added", "part": part | {"text": ""}}
        yield place | {"type": "response.output_text.delta", "delta": part["text"], "logprobs": log_probs}
        yield place | {"type": "response.output_text.done", "text": part["text"], "logprobs": log_probs}
        yield place | {"type": "response.content_part.done", "part": part}
