"""Whether the body of a 2xx is a result of its endpoint, and what it cost. Pure.

| endpoint                                | a result has                                                              |
|-----------------------------------------|---------------------------------------------------------------------------|
| `/v1/chat/completions`                  | `choices`, not empty, each an object with an object `message`             |
| `/v1/completions`                       | `choices`, not empty, each an object with a string `text`                 |
| `/v1/embeddings`                        | `data`, not empty, each an object with an `embedding`, a list or a string |
| `/v1/responses`                         | a list `output`, which may be empty                                       |
| `/v1/audio/…`                           | a string `text` (`audio_answer` makes one of what is no JSON)             |
| `/v1/messages`                          | a list `content`, which may be empty                                      |
| `/v1/moderations`                       | `results`, not empty                                                      |
| `/v1/rerank`                            | a list `results`, or `data` as some call it                               |
| `/v1/score`, `/v1/images/generations`   | `data`, not empty                                                         |
| any other                               | nothing that is known: any object                                         |

More is not asked for, because every server that is right has these and each leaves out something else. A result beside
which an error stands is none, nor is one of whose choices an error is told (as OpenRouter does).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from backfill.batch import AUDIO_ENDPOINTS, Usage

__all__ = ["NOT_JSON", "NoResult", "count_usage", "decode_object", "read_usage"]

# RecursionError: msgspec's answer to thousands of nested brackets.
NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None


class NoResult(Exception):
    """The body is JSON, but no result. `error` is what it says of an error, None if it says nothing."""

    def __init__(self, message: str, error: object = None) -> None:
        super().__init__(message)
        self.error = error


class _Details(msgspec.Struct):
    cached_tokens: _Tokens = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    prompt_tokens_details: _Details | None = None
    # /v1/responses has other words for the same.
    input_tokens: _Tokens = None
    output_tokens: _Tokens = None
    input_tokens_details: _Details | None = None

    def add_up(self) -> Usage:
        """All of it in one form."""
        details = self.prompt_tokens_details or self.input_tokens_details
        cached = details.cached_tokens if details is not None else None
        prompt_tokens = self.prompt_tokens or self.input_tokens or 0
        return Usage(prompt_tokens, self.completion_tokens or self.output_tokens or 0, cached or 0)


class _Answer(msgspec.Struct, kw_only=True):
    error: Any = None
    usage: _Usage | None = None


class _Message(msgspec.Struct):
    """Any object."""


class _ChatChoice(msgspec.Struct):
    message: _Message
    error: Any = None


class _TextChoice(msgspec.Struct):
    text: str
    error: Any = None


class _Embedding(msgspec.Struct):
    embedding: msgspec.Raw


class _Chat(_Answer, kw_only=True):
    choices: Annotated[list[_ChatChoice], msgspec.Meta(min_length=1)]


class _Completion(_Answer, kw_only=True):
    choices: Annotated[list[_TextChoice], msgspec.Meta(min_length=1)]


class _Embeddings(_Answer, kw_only=True):
    data: Annotated[list[_Embedding], msgspec.Meta(min_length=1)]


class _Response(_Answer, kw_only=True):
    # Items are not looked into: there are new kinds of them every few months.
    output: list[msgspec.Raw]


class _Transcript(_Answer, kw_only=True):
    text: str


class _Judgements(_Answer, kw_only=True):
    results: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class _TotalUsage(_Usage):
    """Of endpoints that compute nothing but prompts, and may tell only the sum."""

    total_tokens: _Tokens = None

    def add_up(self) -> Usage:
        """All of it in one form."""
        usage = super().add_up()
        return usage if usage.prompt_tokens else usage._replace(prompt_tokens=self.total_tokens or 0)


class _Images(_Answer, kw_only=True):
    data: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class _Scores(_Images, kw_only=True):
    usage: _TotalUsage | None = None


class _Ranking(_Answer, kw_only=True):
    results: list[msgspec.Raw] | None = None
    data: list[msgspec.Raw] | None = None
    usage: _TotalUsage | None = None


class _MessageUsage(_Usage):
    """Anthropic's, whose `input_tokens` are those that no cache had."""

    cache_read_input_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None

    def add_up(self) -> Usage:
        """All of it in one form."""
        usage = super().add_up()
        cached_tokens = self.cache_read_input_tokens or 0
        prompt_tokens = usage.prompt_tokens + cached_tokens + (self.cache_creation_input_tokens or 0)
        return usage._replace(prompt_tokens=prompt_tokens, cached_tokens=cached_tokens or usage.cached_tokens)


class _ModelMessage(_Answer, kw_only=True):
    content: list[msgspec.Raw]
    usage: _MessageUsage | None = None


_any_answer = msgspec.json.Decoder(_Answer)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_results: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    "/v1/chat/completions": msgspec.json.Decoder(_Chat),
    "/v1/completions": msgspec.json.Decoder(_Completion),
    "/v1/embeddings": msgspec.json.Decoder(_Embeddings),
    "/v1/responses": msgspec.json.Decoder(_Response),
    **dict.fromkeys(AUDIO_ENDPOINTS, msgspec.json.Decoder(_Transcript)),
    "/v1/messages": msgspec.json.Decoder(_ModelMessage),
    "/v1/moderations": msgspec.json.Decoder(_Judgements),
    "/v1/rerank": msgspec.json.Decoder(_Ranking),
    "/v1/score": msgspec.json.Decoder(_Scores),
    "/v1/images/generations": msgspec.json.Decoder(_Images),
}
_WANTED: Final = {
    "/v1/chat/completions": "choices with a message",
    "/v1/completions": "choices with a text",
    "/v1/embeddings": "data with embeddings",
    "/v1/responses": "list named output",
    **dict.fromkeys(AUDIO_ENDPOINTS, "text"),
    "/v1/messages": "list named content",
    "/v1/moderations": "results",
    "/v1/rerank": "list named results",
    "/v1/score": "data with scores",
    "/v1/images/generations": "data with images",
}
_LIST_OR_STRING: Final = b'["'
_NO_USAGE: Final = Usage()


def read_usage(endpoint: str, body: bytes) -> Usage:
    """The tokens that a result reports; zero for what it leaves out or gives in another shape.

    Raises:
        ValueError: the body is not a JSON object in UTF-8.
        NoResult: it is one, but no result of the endpoint, or it tells of an error.

    """
    answer: _Answer
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into the strings it skips
        answer = _results.get(endpoint, _any_answer).decode(body)
    except msgspec.ValidationError:
        answer = _read_odd(endpoint, body)
    except NOT_JSON as error:
        raise ValueError(str(error)) from None
    told = answer.error
    if isinstance(answer, _Embeddings):
        if any(memoryview(item.embedding)[0] not in _LIST_OR_STRING for item in answer.data):
            raise _lack(endpoint)
    elif not told and isinstance(answer, (_Chat, _Completion)):
        for choice in answer.choices:
            told = told or choice.error
    elif not told and isinstance(answer, _Ranking) and answer.results is answer.data is None:
        raise _lack(endpoint)
    if told:
        raise _tell(told)
    return _NO_USAGE if answer.usage is None else answer.usage.add_up()


def count_usage(body: bytes, endpoint: str = "") -> Usage:
    """The tokens that a body reports which is known to be an answer; zero for what cannot be read."""
    try:
        usage = _results.get(endpoint, _any_answer).decode(body).usage
    except NOT_JSON:
        return _NO_USAGE
    return _NO_USAGE if usage is None else usage.add_up()


def decode_object(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object; raises ValueError where the body is none, or not UTF-8."""
    try:
        body.decode()
        return _object.decode(body)
    except NOT_JSON as error:
        raise ValueError(str(error)) from None


def _read_odd(endpoint: str, body: bytes) -> _Answer:
    """An answer that is no result, or a result whose usage nobody understands: that is no reason to lose it."""
    members = decode_object(body)
    error = _find_error(members)
    if error:
        raise _tell(error)
    members.pop("usage", None)
    try:
        answer: _Answer = _results.get(endpoint, _any_answer).decode(msgspec.json.encode(members))
    except NOT_JSON:
        raise _lack(endpoint) from None
    return answer


def _find_error(members: dict[str, msgspec.Raw]) -> object:
    # {"object": "error", "message": …} is how vLLM said it before 0.10.
    if bytes(members.get("object", b"")) == b'"error"':
        return _decode_any(msgspec.Raw(msgspec.json.encode(members)))
    return _decode_any(members.get("error", msgspec.Raw(b"null")))


def _decode_any(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except NOT_JSON:
        return bytes(raw).decode(errors="replace")


def _tell(error: object) -> NoResult:
    return NoResult("The engine's answer tells of an error.", error)


def _lack(endpoint: str) -> NoResult:
    return NoResult(f"The engine's answer has no {_WANTED.get(endpoint, 'result')}.")
