"""Answers become values of columns: `answer` or those of a schema, and `_error`, which is null where all is well."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backfill.tables.answer_schema import AnswerSchema, Misfit
from backfill.tables.column_types import AnswerColumn, ColumnType
from backfill.tables.requests import AUDIO, CHAT, COMPLETIONS, EMBEDDINGS

__all__ = ["NOT_RUN", "AnswerReader", "Usage", "read_result_line"]

NOT_RUN = "there is no result for this row [missing]"
"""The error of a row that no result file knows."""
_INT, _TEXT = ColumnType("int", is_nullable=True), ColumnType("str", is_nullable=True)
_READ = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, *AUDIO})
_IN_PARTS = frozenset({"/v1/responses", "/v1/messages"})
_TOKENS, _LATENCY = ("_prompt_tokens", "_completion_tokens"), "_latency_ms"
_VECTOR = ColumnType("list", of=ColumnType("float"), is_nullable=True)


class Usage(msgspec.Struct, gc=False):
    """Tokens of one request."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    """As /v1/responses and /v1/messages call those of the prompt."""
    output_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    text: Any = None
    finish_reason: Any = None


class _Embedding(msgspec.Struct, gc=False):
    embedding: Any = None


class _Body(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    data: list[_Embedding] = []
    text: Any = None
    usage: Usage | None = None


class _Part(msgspec.Struct, gc=False):
    type: Any = None
    text: Any = None


class _Item(msgspec.Struct, gc=False):
    content: list[_Part] = []


class _Parts(msgspec.Struct, gc=False):
    output: list[_Item] = []
    """Of /v1/responses."""
    content: list[_Part] = []
    """Of /v1/messages."""
    usage: Usage | None = None


class _Used(msgspec.Struct, gc=False):
    usage: Usage | None = None


class _Error(msgspec.Struct, gc=False):
    message: Any = None
    code: Any = None


class _ErrorBody(msgspec.Struct, gc=False):
    error: _Error | str | None = None


class _Response(msgspec.Struct, gc=False):
    status_code: int = 200
    body: msgspec.Raw = msgspec.Raw(b"null")


class _ResultLine(msgspec.Struct, gc=False):
    custom_id: str | None
    response: _Response | None = None
    error: _Error | None = None


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_parts = msgspec.json.Decoder(_Parts).decode
_decode_used = msgspec.json.Decoder(_Used).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode
_decode_line = msgspec.json.Decoder(_ResultLine).decode


@dataclass(frozen=True)
class AnswerReader:
    """Which columns are added to a table, and what stands in them. A row's values are a list, one a column."""

    schema: AnswerSchema | None = None
    endpoint: str = CHAT
    answer_column: str = "answer"
    error_column: str = "_error"
    with_usage: bool = False
    """Whether tokens and latency are added."""
    with_latency: bool = True
    """Whether the latency is among these."""
    columns: tuple[AnswerColumn, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self._list_columns()))

    def _list_columns(self) -> list[AnswerColumn]:
        kind = _VECTOR if self.endpoint == EMBEDDINGS else _TEXT
        answers = [AnswerColumn(self.answer_column, kind)] if self.schema is None else list(self.schema.columns)
        usage: tuple[str, ...] = ()
        if self.with_usage:
            usage = (*_TOKENS, _LATENCY) if self.with_latency else _TOKENS
        return [*answers, AnswerColumn(self.error_column, _TEXT), *(AnswerColumn(name, _INT) for name in usage)]

    @property
    def _answers(self) -> int:
        return 1 if self.schema is None else len(self.schema.columns)

    def fail(self, reason: str, usage: Usage | None = None, latency_ms: int | None = None) -> list[Any]:
        """The values of a row without an answer."""
        return [*([None] * self._answers), reason, *self._tell(usage, latency_ms)]

    def read(self, body: bytes | msgspec.Raw, latency_ms: int | None = None) -> list[Any]:
        """The values of a row that was answered with this body, which is the answer where its endpoint has no text."""
        if self.endpoint not in _READ:
            return self._read_other(body, latency_ms)
        try:
            found = _decode_body(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self.fail("the answer has not the form of this endpoint [bad_answer]", None, latency_ms)
        try:
            values = self._take(found)
        except Misfit as error:
            return self.fail(f"{error} [bad_answer]", found.usage, latency_ms)
        return [*values, None, *self._tell(found.usage, latency_ms)]

    def _read_other(self, body: bytes | msgspec.Raw, latency_ms: int | None) -> list[Any]:
        try:
            if self.endpoint not in _IN_PARTS:
                usage, text = _decode_used(body).usage, bytes(body).decode()
            else:
                found = _decode_parts(body)
                usage, text = found.usage, _join_parts(found)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self.fail("the answer has not the form of this endpoint [bad_answer]", None, latency_ms)
        return [text, None, *self._tell(usage, latency_ms)]

    def read_result(self, result: "_ResultLine") -> list[Any]:
        """The values of a row whose result is this line, as `read_result_line` gives it."""
        response, error = result.response, result.error
        if response is not None and response.status_code < 400:
            return self.read(response.body)
        if error is None and response is not None:
            error = _read_error(response)
        return self.fail(_name_error(error))

    def _tell(self, usage: Usage | None, latency_ms: int | None) -> Sequence[Any]:
        if not self.with_usage:
            return ()
        tokens: tuple[int | None, int | None] = (None, None)
        if usage is not None:
            tokens = (
                usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens,
                usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens,
            )
        return (*tokens, latency_ms) if self.with_latency else tokens

    def _take(self, body: _Body) -> Sequence[Any]:
        if self.endpoint == EMBEDDINGS:
            vector = body.data[0].embedding if body.data else None
            if not isinstance(vector, list):
                raise Misfit("the answer has no embedding as a list of numbers")
            return (vector,)
        if self.endpoint in AUDIO:
            if not isinstance(body.text, str):
                raise Misfit("the answer has no text")
            return (body.text,)
        if not body.choices:
            raise Misfit("the answer has no choices")
        choice = body.choices[0]
        text = _find_text(choice, self.endpoint)
        if self.schema is None:
            return (text,)
        try:
            return self.schema.decode(text)
        except Misfit as error:
            cut = "; it was cut off at the limit of tokens" if choice.finish_reason == "length" else ""
            raise Misfit(f"{error}{cut}") from None


def read_result_line(line: bytes) -> _ResultLine | None:
    """A line of an output or error file of whatever server; None if it is none."""
    try:
        return _decode_line(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _join_parts(found: _Parts) -> str:
    parts = [*found.content, *(part for item in found.output for part in item.content)]
    return "".join(part.text for part in parts if isinstance(part.text, str) and part.type in {"text", "output_text"})


def _find_text(choice: _Choice, endpoint: str) -> str:
    if endpoint == COMPLETIONS:
        text = choice.text
    else:
        message = choice.message or _Message()
        text = message.content
        if text is None and isinstance(message.refusal, str):
            raise Misfit(f"the model refuses: {message.refusal}")
    if not isinstance(text, str):
        raise Misfit("the answer has no text")
    return text


def _read_error(response: _Response) -> _Error:
    try:
        error = _decode_error(response.body).error
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        error = None
    if isinstance(error, _Error):
        return _Error(error.message, error.code or f"http_{response.status_code}")
    return _Error(error, f"http_{response.status_code}")


def _name_error(error: _Error | None) -> str:
    if error is None:
        return "the result has neither an answer nor an error [missing]"
    message = error.message if isinstance(error.message, str) and error.message else "no reason was given"
    return f"{message} [{error.code}]" if error.code else message
