"""One line of an input file: parse it, and say exactly what is wrong if it will not do.

    {"custom_id": "request-1", "body": {"model": "...", "messages": [...], "max_tokens": 200}}

Extra members are allowed: clients of the other dialect put `method` and `url` there. The body is never rebuilt:
`ParsedLine` says where its bytes lie in the line.
"""

from typing import Any

import msgspec
import xxhash

from backfill.batch import ENDPOINTS, BatchProblem
from backfill.index import DEFAULT_ANSWER_TOKENS, PREFIX_LEVELS, PREFIX_MARKS, LineFacts

__all__ = ["ParsedLine", "find_shape_problem", "find_target_problem", "parse_line"]

# A rough but steady rule for text of mixed languages; the engine counts exactly.
_BYTES_PER_TOKEN = 4
_EMPTY = frozenset({b"", b"null", b"[]", b'""'})
_LONGEST_EMPTY = max(map(len, _EMPTY))
_MOST_U32 = 2**32 - 1
_MOST_ANSWER_TOKENS = 2**31  # no model gives as many, and the index holds it
_NEEDED_MEMBER = dict(zip(ENDPOINTS, ("messages", "prompt", "input", "input"), strict=True))


class ParsedLine(LineFacts):
    """What intake keeps of one line. `members` are those of messages, prompt and input that are there and not empty."""

    custom_id: str
    members: frozenset[str]
    target: tuple[str | None, str | None]
    """The line's own `method` and `url`, which one dialect demands and the other lets pass."""


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
_MEMBERS = {
    (chat, prompt, embed): frozenset(
        name for name, there in (("messages", chat), ("prompt", prompt), ("input", embed)) if there
    )
    for chat in (False, True)
    for prompt in (False, True)
    for embed in (False, True)
}

_ONLY_MESSAGES = _MEMBERS[True, False, False]


def parse_line(line: bytes, custom_id_length: int) -> ParsedLine | BatchProblem:
    """Parse one line without its line end; the problem's line number is left for the caller to fill in."""
    try:
        if not line.isascii():
            line.decode()  # msgspec does not look into the strings it skips
        envelope, body, raw, start = _split(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _explain(line)
    custom_id = envelope.custom_id
    if not 0 < len(custom_id) <= custom_id_length:
        message = f"custom_id must have 1 to {custom_id_length} characters; this one has {len(custom_id)}."
        return BatchProblem("invalid_custom_id", message, param="custom_id")
    if body.stream:
        message = "body.stream must be false or absent: a batch answers each request with one whole body."
        return BatchProblem("invalid_request", message, param="body.stream")
    answer_tokens = body.max_completion_tokens or body.max_tokens or body.max_output_tokens
    if type(answer_tokens) is not int or answer_tokens < 0:
        answer_tokens = DEFAULT_ANSWER_TOKENS
    elif answer_tokens > _MOST_ANSWER_TOKENS:
        answer_tokens = _MOST_ANSWER_TOKENS
    length = len(raw)
    members, opening = _look_at_prompt(body)
    method, url = envelope.method, envelope.url
    return ParsedLine(
        start,
        length,
        body.model or None,
        length // _BYTES_PER_TOKEN + answer_tokens,
        answer_tokens,
        opening,
        _digest(body, raw),
        custom_id,
        members,
        _NO_TARGET if method is url is None else (_as_text(method), _as_text(url)),
    )


def find_target_problem(target: tuple[str | None, str | None], endpoint: str) -> BatchProblem | None:
    """Why a line of OpenAI's dialect with this `method` and `url` cannot go to `endpoint`; None if it can."""
    method, url = target
    if method != "POST":
        return BatchProblem("invalid_method", f'method must be "POST"; got {method!r}.', param="method")
    if url != endpoint:
        return BatchProblem("url_mismatch", f"url must be the batch's endpoint {endpoint}; got {url!r}.", param="url")
    return None


def find_shape_problem(members: frozenset[str], endpoint: str) -> BatchProblem | None:
    """Why a line with these members cannot go to `endpoint`; None if it can."""
    needed = _NEEDED_MEMBER[endpoint]
    if needed in members:
        return None
    shape = "a non-empty array" if needed == "messages" else "a non-empty string or array"
    return BatchProblem("invalid_request", f"{endpoint} needs body.{needed}: {shape}.", param=f"body.{needed}")


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


def _look_at_prompt(body: _Body) -> tuple[frozenset[str], tuple[int, ...]]:
    """Which members carry a prompt, and the hashes of the beginnings of the first of them."""
    messages = bytes(body.messages)
    chats = messages[:1] == b"[" and _is_filled(messages)
    if chats and body.prompt is body.input is body.tools is _ABSENT:
        return _ONLY_MESSAGES, _hash_prefixes(messages, 0)
    prompt, embed, tools = map(_take_filled, (body.prompt, body.input, body.tools))
    members = _MEMBERS[chats, prompt != b"", embed != b""]
    # Chat templates put the tools before the messages.
    return members, _hash_prefixes(messages if chats else prompt or embed, _hash(tools) if tools else 0)


def _hash_prefixes(prompt: bytes, seed: int) -> tuple[int, ...]:
    """Hashes of the first 256, 512, 1024... bytes, each with the one before as its seed; 0 past the prompt's end."""
    reached = (len(prompt) // PREFIX_MARKS[0]).bit_length()
    hashes = []
    for piece in _PIECES_REACHED[reached]:
        seed = _hash(prompt[piece], seed)
        hashes.append(seed & _MOST_U32 or 1)
    return (*hashes, *_NO_HASHES[reached])


def _digest(body: _Body, raw: bytes) -> int:
    """Hash of a request's bytes if it is one that gives the same answer each time, else 0."""
    temperature = body.temperature
    is_deterministic = (temperature == 0 and temperature is not False) or type(body.seed) is int
    return (_hash(raw) or 1) if is_deterministic else 0


def _take_filled(member: msgspec.Raw) -> bytes:
    value = bytes(member)
    return value if _is_filled(value) else b""


def _is_filled(value: bytes) -> bool:
    return len(value) > _LONGEST_EMPTY or value not in _EMPTY


def _explain(line: bytes) -> BatchProblem:
    """Find the first thing that is wrong with a line that did not parse; slow, and only for bad lines."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return BatchProblem("invalid_json_line", f"The line is not valid UTF-8 (byte {error.start + 1}).")
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        return BatchProblem("invalid_json_line", f"The line is not valid JSON: {error}.")
    except RecursionError:
        return BatchProblem("invalid_json_line", "The line's JSON is nested too deeply.")
    if not isinstance(value, dict):
        return BatchProblem("invalid_json_line", "The line must be a JSON object with custom_id and body.")
    if "custom_id" not in value:
        return BatchProblem("missing_custom_id", "The line has no custom_id.", param="custom_id")
    if not isinstance(value["custom_id"], str):
        return BatchProblem("invalid_custom_id", "custom_id must be a string.", param="custom_id")
    if "body" not in value:
        return BatchProblem("missing_body", "The line has no body.", param="body")
    if not isinstance(value["body"], dict):
        return BatchProblem("invalid_body", "body must be a JSON object: the request for the endpoint.", param="body")
    return BatchProblem("invalid_model", "body.model must be a string.", param="body.model")
