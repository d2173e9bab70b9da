"""One line of an input file: parse it, or find out what is wrong with it.

    {"custom_id": "request-1", "body": {"model": "...", "messages": [...], "max_tokens": 200}}

Extra members are allowed: clients of the other dialect put `method` and `url` there. The body is never rebuilt:
`ParsedLine` says where its bytes lie in the line.
"""

from typing import Any

import msgspec
import xxhash

from backfill.batch import BatchProblem
from backfill.index import DEFAULT_ANSWER_TOKENS, PREFIX_LEVELS, PREFIX_MARKS, LineFacts
from backfill.wire.bad_line import FaultyRequest, explain_line
from backfill.wire.line_shape import (
    HAS_FILE,
    HAS_INPUT,
    HAS_MEDIA,
    HAS_MESSAGES,
    HAS_PROMPT,
    HAS_QUERY,
    HAS_TEXTS,
    Fault,
    shape_of_fault,
)
from backfill.wire.media_references import may_have_media, may_have_media_elsewhere
from backfill.wire.media_tokens import BYTES_PER_TOKEN, weigh_media
from backfill.wire.reuse import digest_request

__all__ = ["ParsedLine", "parse_line"]

_EMPTY = frozenset({b"", b"null", b"[]", b'""'})
_LONGEST_EMPTY = max(map(len, _EMPTY))
_MOST_U32 = 2**32 - 1
_MOST_TOKENS = 2**30  # of a prompt; with the answer's it fits the index
_MOST_ANSWER_TOKENS = 2**31  # no model gives as many, and the index holds it


class ParsedLine(LineFacts):
    """What intake keeps of one line."""

    custom_id: str
    target: tuple[str | None, str | None]
    """The line's own `method` and `url`, which one dialect demands and the other lets pass."""
    problem: BatchProblem | None = None
    """Why the request cannot be sent, where that is more than its shape tells. Its body is then the whole line."""


_BODY_NAME = b'"body":'
_BRACE, _SPACE, _BACKSLASH = b"{ \\"
_PREFIX_PIECES = tuple(map(slice, (0, *PREFIX_MARKS), PREFIX_MARKS))
# By how many levels a prompt reaches, past the last one too: the pieces to hash, and what fills up the row.
_PIECES_REACHED = tuple(_PREFIX_PIECES[:reached] for reached in range(64))
_NO_HASHES = tuple((0,) * (PREFIX_LEVELS - reached) for reached in range(64))
_ABSENT = msgspec.Raw()
_NO_TARGET = (None, None)


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    body: msgspec.Raw
    method: Any = None
    url: Any = None


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    file: msgspec.Raw = _ABSENT
    file_url: msgspec.Raw = _ABSENT
    query: msgspec.Raw = _ABSENT
    documents: msgspec.Raw = _ABSENT
    text_1: msgspec.Raw = _ABSENT
    text_2: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    stream: Any = None
    temperature: Any = None
    seed: Any = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_hash = xxhash.xxh3_64_intdigest
_STREAMS = shape_of_fault(Fault.STREAM)


def parse_line(line: bytes, custom_id_length: int) -> ParsedLine | BatchProblem:
    """Parse one line without its line end; the problem's line number is left for the caller to fill in."""
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look into the strings it skips
        envelope, body, raw, start = _split(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _take_apart(line, custom_id_length)
    custom_id = envelope.custom_id
    if not 0 < len(custom_id) <= custom_id_length:
        return _refuse_length(custom_id, custom_id_length)
    answer_tokens = body.max_completion_tokens or body.max_tokens or body.max_output_tokens
    if type(answer_tokens) is not int or answer_tokens < 0:
        answer_tokens = DEFAULT_ANSWER_TOKENS
    elif answer_tokens > _MOST_ANSWER_TOKENS:
        answer_tokens = _MOST_ANSWER_TOKENS
    length = len(raw)
    tokens = length // BYTES_PER_TOKEN
    shape, opening = _look_at_prompt(body)
    if shape & HAS_MEDIA:
        shape, tokens = _look_at_media(raw, shape)
    if shape & HAS_FILE:
        # A clip that stands in the line is no text; where it is heard it counts by its seconds.
        tokens -= (len(memoryview(body.file)) + len(memoryview(body.file_url))) // BYTES_PER_TOKEN
    method, url = envelope.method, envelope.url
    temperature, seed = body.temperature, body.seed
    return ParsedLine(
        start,
        length,
        body.model or None,
        tokens + answer_tokens,
        answer_tokens,
        opening,
        0 if temperature is seed is None else digest_request(raw, temperature, seed),
        _STREAMS if body.stream else shape,
        custom_id,
        _NO_TARGET if method is url is None else (_as_text(method), _as_text(url)),
    )


def _take_apart(line: bytes, custom_id_length: int) -> ParsedLine | BatchProblem:
    """What can be kept of a line that did not parse."""
    found = explain_line(line)
    if not isinstance(found, FaultyRequest):
        return found
    if not 0 < len(found.custom_id) <= custom_id_length:
        return _refuse_length(found.custom_id, custom_id_length)
    target = _as_text(found.method), _as_text(found.url)
    facts = (0, len(line), found.model, 0, 0, (0,) * PREFIX_LEVELS, 0, found.shape)
    return ParsedLine(*facts, found.custom_id, target, found.problem)


def _refuse_length(custom_id: str, custom_id_length: int) -> BatchProblem:
    message = f"custom_id must have 1 to {custom_id_length} characters; this one has {len(custom_id)}."
    return BatchProblem("invalid_custom_id", message, param="custom_id")


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


def _split(line: bytes) -> tuple[_Line, _Body, bytes, int]:
    """What stands around the body, what is in it, its bytes, and where they lie; raises msgspec.DecodeError.

    Nearly always the body is the last member, and need not be read twice to find its end: what stands before it is
    read with a null in its place, and the rest, less the last brace, has to be a JSON value by itself. Where either
    is not so, the line is read whole.
    """
    start = line.find(_BODY_NAME) + len(_BODY_NAME)
    if start > len(_BODY_NAME) and line.endswith(b"}}"):
        # A quote after a backslash begins no name. No other object on the way: the body is a member of the line itself.
        is_name = line[start - len(_BODY_NAME) - 1] != _BACKSLASH
        if line[start] == _SPACE:
            start += 1
        before = line[:start]
        if is_name and line[start] == _BRACE and before.count(b"{") == 1:
            raw = line[start:-1]
            try:
                return _decode_line(before + b"null}"), _decode_body(raw), raw, start
            except msgspec.DecodeError:
                pass  # the body is not the last member, or the line is bad
    envelope = _decode_line(line)
    raw = bytes(envelope.body)
    return envelope, _decode_body(raw), raw, line.find(raw)


def _look_at_prompt(body: _Body) -> tuple[int, tuple[int, ...]]:
    """What the body has (`line_shape`), and the hashes of the beginnings of its first member with a prompt."""
    messages = bytes(body.messages)
    last_list = messages.rfind(b"[")
    chats = (last_list == 0 or messages[:1] == b"[") and messages != b"[]"
    if chats and body.prompt is body.input is body.tools is body.file is body.file_url is _ABSENT:
        # A picture stands in a list inside the one of the messages.
        has_media = last_list > 0 and may_have_media(messages)
        return HAS_MESSAGES | HAS_MEDIA if has_media else HAS_MESSAGES, _hash_prefixes(messages, 0)
    prompt, embed, tools = map(_take_filled, (body.prompt, body.input, body.tools))
    shape = (HAS_MESSAGES if chats else 0) | (HAS_PROMPT if prompt else 0) | (HAS_INPUT if embed else 0)
    if (messages and may_have_media(messages)) or (embed and may_have_media_elsewhere(embed)):
        shape |= HAS_MEDIA
    # A clip may have a prompt beside it.
    if not prompt or not (body.file is body.file_url is _ABSENT):
        shape |= _look_at_rest(body)
    # Chat templates put the tools before the messages.
    return shape, _hash_prefixes(messages if chats else prompt or embed, _hash(tools) if tools else 0)


def _look_at_media(raw: bytes, shape: int) -> tuple[int, int]:
    """The shape of a body that may have pictures, once looked at closely, and the tokens of its prompt."""
    need = weigh_media(raw)
    if not (need.pictures or need.clips or need.is_faulty):
        shape &= ~HAS_MEDIA
    return shape, min((len(raw) - need.size_bytes) // BYTES_PER_TOKEN + need.tokens, _MOST_TOKENS)


def _look_at_rest(body: _Body) -> int:
    """What only few endpoints take."""
    file, file_url, query, documents, one, other = map(
        _take_filled, (body.file, body.file_url, body.query, body.documents, body.text_1, body.text_2)
    )
    shape = (HAS_FILE if file or file_url else 0) | (HAS_TEXTS if one and other else 0)
    if query and documents:
        shape |= HAS_QUERY
    return shape | HAS_MEDIA if any(map(may_have_media_elsewhere, (query, documents, one, other))) else shape


def _hash_prefixes(prompt: bytes, seed: int) -> tuple[int, ...]:
    """Hashes of the first 256, 512, 1024... bytes, each with the one before as its seed; 0 past the prompt's end."""
    reached = (len(prompt) // PREFIX_MARKS[0]).bit_length()
    hashes = []
    for piece in _PIECES_REACHED[reached]:
        seed = _hash(prompt[piece], seed)
        hashes.append(seed & _MOST_U32 or 1)
    return (*hashes, *_NO_HASHES[reached])


def _take_filled(member: msgspec.Raw) -> bytes:
    value = bytes(member)
    return value if _is_filled(value) else b""


def _is_filled(value: bytes) -> bool:
    return len(value) > _LONGEST_EMPTY or value not in _EMPTY
