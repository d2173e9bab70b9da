"""A stream of llama.cpp's server, gathered into the whole answer that it would have given without one. Pure.

Its server goes on with a whole answer after the connection has closed; a stream it gives up, and its slot is free a
step later. So whatever can be is asked for as a stream. What a stream does not tell is asked for whole:

- text that was held back because a stop string might begin there, and never sent;
- in chats: the logprobs of a token that adds no text; tool calls, which are parsed anew with each token;
- in completions: half a character where the answer is cut off; the number of the last token that was told shows it.

Everything else is told by the events: which members, in which order, with which values.
"""

from typing import Any, Final

import msgspec

__all__ = ["UnlikeWhole", "ask_for_stream", "gather_stream"]

_ASKED: Final = b',"stream":true,"stream_options":{"include_usage":true},"timings_per_token":%s}'
_EVENT: Final = b"data: "
_DONE: Final = b"[DONE]"
_ERROR: Final = b'{"error"'
_NOT_TOLD: Final = msgspec.Raw()


class UnlikeWhole(Exception):
    """A whole answer cannot be made of the stream; the message says why."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        """`is_lasting`: other answers of the model will not be like it either."""
        super().__init__(message)
        self.is_lasting = is_lasting


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None


class _LogProbs(msgspec.Struct, forbid_unknown_fields=True):
    content: list[msgspec.Raw]


class _Choice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    index: int
    finish_reason: str | None
    delta: _Delta | None = None
    text: str | None = None
    logprobs: _LogProbs | None = None


class _Event(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    choices: list[_Choice]
    created: msgspec.Raw
    model: msgspec.Raw
    system_fingerprint: msgspec.Raw
    object: str
    id: msgspec.Raw
    usage: msgspec.Raw = _NOT_TOLD
    timings: msgspec.Raw = _NOT_TOLD


_event = msgspec.json.Decoder(_Event)


def ask_for_stream(endpoint: str, body: bytes) -> bytes:
    """The request, a JSON object with members, as one for a stream.

    Of a member that comes twice the last one counts.
    """
    return body.rstrip()[:-1] + _ASKED % (b"true" if endpoint == "/v1/completions" else b"false")


def gather_stream(stream: bytes) -> bytes:
    """The whole answer.

    Raises:
        UnlikeWhole: the request is to be sent again, for a whole answer.

    """
    events = [part.removeprefix(_EVENT) for part in stream.split(b"\n\n") if part]
    if not events or events.pop() != _DONE:
        raise UnlikeWhole("It has no end.")
    if any(event.startswith(_ERROR) for event in events):
        raise UnlikeWhole("It tells of an error.")
    try:
        last, choice = _join([_event.decode(event) for event in events])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnlikeWhole(str(error), is_lasting=True) from None
    if last is None or not bytes(last.usage):
        raise UnlikeWhole("It tells no usage, or no finish reason.")
    whole = {
        "choices": [choice],
        "created": last.created,
        "model": last.model,
        "system_fingerprint": last.system_fingerprint,
        "object": last.object.removesuffix(".chunk"),
        "usage": last.usage,
        "id": last.id,
    }
    return msgspec.json.encode(whole if not bytes(last.timings) else whole | {"timings": last.timings})


def _join(events: list[_Event]) -> tuple[_Event | None, dict[str, object]]:
    """The last event, and the choice that all of them tell; the latter empty if it has no end."""
    parts: list[str] = []
    log_probs: list[msgspec.Raw] | None = None
    is_chat, role, finish_reason = False, "assistant", None
    for event in events:
        for choice in event.choices:
            if choice.index:
                raise UnlikeWhole("It has more than one choice.")
            if choice.delta is not None:
                is_chat, role = True, choice.delta.role or role
            parts.append((choice.delta.content if choice.delta is not None else choice.text) or "")
            if choice.logprobs is not None:
                if is_chat:
                    raise UnlikeWhole("Of a chat it leaves out logprobs.")
                log_probs = log_probs or []
                log_probs += choice.logprobs.content
            finish_reason = choice.finish_reason or finish_reason
    if finish_reason is None:
        return None, {}
    text = "".join(parts)
    if not is_chat:
        if finish_reason == "length" and _count_told(events) != _read_count(events[-1].usage, "completion_tokens"):
            raise UnlikeWhole("It leaves out half a character.")
        told = None if log_probs is None else {"content": log_probs}
        return events[-1], {"text": text, "index": 0, "logprobs": told, "finish_reason": finish_reason}
    message = {"role": role, "content": text}
    return events[-1], {"finish_reason": finish_reason, "index": 0, "message": message}


def _count_told(events: list[_Event]) -> int:
    """How many tokens there were at the last one that has an event of its own."""
    return _read_count(events[-2].timings, "predicted_n") if len(events) > 1 else 0


def _read_count(members: msgspec.Raw, name: str) -> int:
    return msgspec.json.decode(members, type=dict[str, Any])[name] if bytes(members) else 0
