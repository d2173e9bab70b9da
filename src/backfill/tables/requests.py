"""Rows become request lines, of the form that every server with a Batch API takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backfill.errors import InvalidInput
from backfill.tables.answer_schema import AnswerSchema
from backfill.tables.template import Template
from backfill.tables.values import NoText, render_text

__all__ = [
    "AUDIO",
    "CHAT",
    "COMPLETIONS",
    "EMBEDDINGS",
    "TABLE_ENDPOINTS",
    "TRANSCRIPTIONS",
    "RequestBuilder",
    "RequestPlan",
    "Unsendable",
    "row_id",
]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
AUDIO = (TRANSCRIPTIONS, TRANSLATIONS)
TABLE_ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, *AUDIO)
"""Where the rows of a table can go."""
_RESERVED = frozenset({"messages", "prompt", "input", "file", "stream", "model"})
_ID_LENGTH_MAX = 64
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Unsendable(ValueError):
    """Nothing can be asked about a row; the message says why."""


@dataclass(frozen=True)
class RequestPlan:
    """What each row asks."""

    prompt: str = ""
    system: str | None = None
    """Said before each prompt, word for word: it has no places for columns."""
    schema: AnswerSchema | None = None
    endpoint: str = CHAT
    model: str | None = None
    """Stands in each request; None: whoever runs them knows."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further members of each body, such as `temperature`."""
    id_column: str | None = None
    image_column: str | None = None
    audio_column: str | None = None
    """With it the requests are for an audio endpoint, and the prompt may be empty."""

    def describe(self) -> dict[str, Any]:
        """All that decides what is asked, but for the model, as JSON has it."""
        return {
            "prompt": self.prompt,
            "system": self.system,
            "columns or schema": None if self.schema is None else msgspec.to_builtins(self.schema.schema),
            "endpoint": self.endpoint,
            "parameters": dict(self.parameters),
            "id column": self.id_column,
            "image column": self.image_column,
            "audio column": self.audio_column,
        }


class RequestBuilder:
    """Makes the line of each row; `columns` are those that it wants of a row, in this order, each once."""

    def __init__(self, plan: RequestPlan) -> None:
        """Raises InvalidInput if the plan makes no sense."""
        _check(plan)
        self.plan = plan
        self._template = Template.parse(plan.prompt)
        others = [name for name in (plan.image_column, plan.audio_column, plan.id_column) if name is not None]
        self.columns = tuple(dict.fromkeys((*self._template.columns, *others)))
        self._places = [self.columns.index(name) for name in self._template.columns]
        self._image_at = None if plan.image_column is None else self.columns.index(plan.image_column)
        self._audio_at = None if plan.audio_column is None else self.columns.index(plan.audio_column)
        self._id_at = None if plan.id_column is None else self.columns.index(plan.id_column)
        self._head, self._tail = _frame(plan)
        method = "FILE" if plan.endpoint in AUDIO else "POST"
        self._target = b'"method":%b,"url":%b,"body":' % (_encode(method), _encode(plan.endpoint))

    def build(self, row: int, values: Sequence[Any]) -> bytes:
        """The line of a row, with its end; raises Unsendable."""
        texts = [self._render(place, values[place]) for place in self._places]
        content = _encode(self._template.fill(texts))
        if self._image_at is not None:
            content = self._add_images(content, values[self._image_at])
        elif self._audio_at is not None:
            content = self._put_behind_audio(content, values[self._audio_at])
        name = row_id(row) if self._id_at is None else self.name_row(values)
        return b'{"custom_id":%b,%b%b%b%b}\n' % (_encode(name), self._target, self._head, content, self._tail)

    def find_obstacle(self, values: Sequence[Any]) -> str | None:
        """Why nothing can be asked about a row; None if something can."""
        # As nearly all are: then there is nothing to look for.
        if self._id_at is self._audio_at is None and all(type(value) is str and value.isascii() for value in values):
            return None
        try:
            self.build(0, values)
        except Unsendable as error:
            return str(error)
        return None

    def name_row(self, values: Sequence[Any]) -> str:
        """What the id column says; raises Unsendable if that is no id."""
        assert self._id_at is not None  # noqa: S101 - whoever asks has an id column
        name = self._render(self._id_at, values[self._id_at])
        if not 0 < len(name) <= _ID_LENGTH_MAX:
            what = f"an id of {len(name)} characters; 1 to {_ID_LENGTH_MAX} are allowed" if name else "no id"
            raise Unsendable(f"column {self.columns[self._id_at]!r} holds {what}")
        return name

    def _render(self, place: int, value: Any) -> str:
        try:
            return render_text(value)
        except NoText as error:
            raise Unsendable(f"column {self.columns[place]!r} {error}") from None

    def _put_behind_audio(self, prompt: bytes, value: Any) -> bytes:
        place = self._audio_at or 0
        url = self._render(place, value)
        if not url:
            raise Unsendable(f"column {self.columns[place]!r} holds no audio")
        return _encode(url) if prompt == b'""' else b'%b,"prompt":%b' % (_encode(url), prompt)

    def _add_images(self, text: bytes, value: Any) -> bytes:
        """The content of a message with the images behind the text; a row without any is one of text alone."""
        place = self._image_at or 0
        urls = [self._render(place, each) for each in (value if isinstance(value, (list, tuple)) else [value])]
        parts = [b'{"type":"text","text":%b}' % text]
        parts += [b'{"type":"image_url","image_url":{"url":%b}}' % _encode(url) for url in urls if url]
        return b"[%b]" % b",".join(parts) if len(parts) > 1 else text


def row_id(row: int) -> str:
    """The custom id of a row, counted from 0, where no column names rows."""
    return f"row-{row}"


def _check(plan: RequestPlan) -> None:
    if plan.endpoint not in TABLE_ENDPOINTS:
        message = f"The rows of a table go to {', '.join(TABLE_ENDPOINTS)}; {plan.endpoint} takes a JSONL of requests."
        raise InvalidInput(message, param="endpoint")
    for what, is_given, allowed in (
        ("system prompt", plan.system is not None, (CHAT,)),
        ("columns or schema", plan.schema is not None, (CHAT, COMPLETIONS)),
        ("images", plan.image_column is not None, (CHAT,)),
        ("audio", plan.audio_column is not None, AUDIO),
    ):
        if is_given and plan.endpoint not in allowed:
            raise InvalidInput(f"{plan.endpoint} takes no {what}; {' and '.join(allowed)} do.", param="endpoint")
    if plan.endpoint in AUDIO and plan.audio_column is None:
        raise InvalidInput(f"{plan.endpoint} needs the column with the audio.", param="audio")
    for name in plan.parameters:
        if name in _RESERVED or (name == "response_format" and plan.schema is not None):
            message = f"The parameter {name!r} is set from the table and the other options; it cannot be given as well."
            raise InvalidInput(message, param="parameters")
    if plan.audio_column is not None:
        return
    if not plan.prompt and plan.image_column is None:
        message = "A table needs a prompt, which says what to ask about each row, such as 'Classify: {text}'."
        raise InvalidInput(message, param="prompt", code="no_prompt")
    if not Template.parse(plan.prompt).columns and plan.image_column is None:
        message = "The prompt names no column, so that each row would ask the same; write, say, 'Classify: {text}'."
        raise InvalidInput(message, param="prompt", code="no_column")


def _frame(plan: RequestPlan) -> tuple[bytes, bytes]:
    """What stands in each body before and behind the content of the prompt."""
    members = [] if plan.model is None else [b'"model":%b' % _encode(plan.model)]
    rest = [b"%b:%b" % (_encode(name), _encode(value)) for name, value in plan.parameters.items()]
    if plan.schema is not None:
        rest.append(b'"response_format":%b' % _encode(plan.schema.response_format))
    before, behind = _FRAMES[plan.endpoint](plan)
    return b"{" + b",".join([*members, before]), behind + b"".join(b"," + member for member in rest) + b"}"


def _frame_chat(plan: RequestPlan) -> tuple[bytes, bytes]:
    system = b'{"role":"system","content":%b},' % _encode(plan.system) if plan.system is not None else b""
    return b'"messages":[%b{"role":"user","content":' % system, b"}]"


_FRAMES: dict[str, Callable[[RequestPlan], tuple[bytes, bytes]]] = {
    CHAT: _frame_chat,
    COMPLETIONS: lambda _: (b'"prompt":', b""),
    EMBEDDINGS: lambda _: (b'"input":', b""),
    TRANSCRIPTIONS: lambda _: (b'"file":', b""),
    TRANSLATIONS: lambda _: (b'"file":', b""),
}
