"""How many tokens a live request uses: guessed before, and read from the answer as it passes. Pure."""

import re
from typing import Final

import msgspec

from backfill.wire import guess_prompt_tokens, may_have_media, may_have_media_elsewhere

__all__ = ["LiveRequest", "UsageReader", "read_request"]

_ANSWER_TOKENS: Final = 256
"""Of an answer whose request sets no bound."""
_TAIL_BYTES: Final = 8192
"""Usage stands at the end of an answer, of a stream as of a whole one."""
_EVENT: Final = b"\ndata:"
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_COUNT: Final = re.compile(
    rb'"(?P<name>prompt_tokens|input_tokens|completion_tokens|output_tokens)"\s*:\s*(?P<n>\d{1,9})'
)


class _Request(msgspec.Struct):
    model: object = None
    stream: object = None
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    max_tokens: object = None
    max_completion_tokens: object = None
    max_output_tokens: object = None
    n: object = None


_request: Final = msgspec.json.Decoder(_Request)


class LiveRequest(msgspec.Struct, frozen=True):
    """What is known of a request before it is sent."""

    model: str
    is_stream: bool
    tokens: int
    """Prompt and answer, as a guess."""
    prompt_tokens: int
    may_name_media: bool = False
    """Whether it may name a picture or a clip."""


def read_request(endpoint: str, body: bytes) -> LiveRequest | str:
    """What the body asks for, or the member that is wrong: "" for the whole body."""
    try:
        if not body.isascii():
            body.decode()
        found = _request.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(found.model, str) or not found.model:
        return "model"
    messages, items = bytes(found.messages), bytes(found.input)
    prompt_tokens = guess_prompt_tokens(body, messages, items) + 1
    may_name_media = may_have_media(messages) or may_have_media_elsewhere(items)
    answer_tokens = 0
    if endpoint != "/v1/embeddings":
        bounds = (found.max_completion_tokens, found.max_tokens, found.max_output_tokens)
        bound = next((value for value in bounds if type(value) is int and value > 0), _ANSWER_TOKENS)
        choices = found.n if type(found.n) is int and found.n > 0 else 1
        answer_tokens = bound * choices
    return LiveRequest(found.model, found.stream is True, prompt_tokens + answer_tokens, prompt_tokens, may_name_media)


class UsageReader:
    """Looks at the pieces of an answer as they pass, and keeps none but the last."""

    def __init__(self, request: LiveRequest) -> None:
        self._request = request
        self._tail = b""
        self._events = 0
        self._has_ended = False

    def note(self, part: bytes) -> None:
        """A piece passes; an empty one is the end."""
        self._has_ended = not part
        self._events += part.count(_EVENT) + part.startswith(b"data:")
        self._tail = (self._tail + part)[-_TAIL_BYTES:]

    @property
    def tokens(self) -> int:
        """What the answer says that it used; where it says nothing, an event is a token, and else the guess stands."""
        *_, found = [None, *_USAGE.finditer(self._tail)]
        if found is not None:
            counts = {match["name"]: int(match["n"]) for match in _COUNT.finditer(self._tail, found.end())}
            if counts:
                return sum(counts.values())
        if self._request.is_stream:
            return self._request.prompt_tokens + self._events
        return self._request.tokens if self._has_ended else self._request.prompt_tokens
