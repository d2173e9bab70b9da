"""One line of an input file: parse it, and say exactly what is wrong if it will not do.

    {"custom_id": "request-1", "body": {"model": "...", "messages": [...], "max_tokens": 200}}

Extra members are allowed: clients of the other dialect put `method` and `url` there. The body is never rebuilt:
`ParsedLine` says where its bytes lie in the line.
"""

import re
from typing import Any, NamedTuple

import msgspec

from backfill.batch import ENDPOINTS, BatchProblem

__all__ = ["ParsedLine", "find_shape_problem", "find_target_problem", "parse_line"]

# A rough but steady rule for text of mixed languages; the engine counts exactly.
_BYTES_PER_TOKEN = 4
_DEFAULT_ANSWER_TOKENS = 256
_EMPTY = frozenset({b"", b"null", b"[]", b'""'})
_LONGEST_EMPTY = max(map(len, _EMPTY))
_NEEDED_MEMBER = dict(zip(ENDPOINTS, ("messages", "prompt", "input", "input"), strict=True))


class ParsedLine(NamedTuple):
    """What intake keeps of one line. `members` are those of messages, prompt and input that are there and not empty."""

    custom_id: str
    body_start: int
    body_length: int
    model: str | None
    token_estimate: int
    members: frozenset[str]
    target: tuple[str | None, str | None]
    """The line's own `method` and `url`, which one dialect demands and the other lets pass."""


# Up to the body, and no other object on the way: then "body" is a member of the line itself.
_BEFORE_BODY = re.compile(rb'\s*\{[^{]*?"body"\s*:\s*(?=\{)')
_ABSENT = msgspec.Raw()
_NO_TARGET = (None, None)


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw
    method: Any = None
    url: Any = None


class _Body(msgspec.Struct):
    model: str | None = None
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    stream: Any = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_MEMBERS = {
    (chat, prompt, embed): frozenset(
        name for name, there in (("messages", chat), ("prompt", prompt), ("input", embed)) if there
    )
    for chat in (False, True)
    for prompt in (False, True)
    for embed in (False, True)
}


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
        answer_tokens = _DEFAULT_ANSWER_TOKENS
    messages = bytes(body.messages)
    filled = (
        messages[:1] == b"[" and _is_filled(messages),
        body.prompt is not _ABSENT and _is_filled(bytes(body.prompt)),
        body.input is not _ABSENT and _is_filled(bytes(body.input)),
    )
    method, url = envelope.method, envelope.url
    target = _NO_TARGET if method is url is None else (_as_text(method), _as_text(url))
    estimate = len(raw) // _BYTES_PER_TOKEN + answer_tokens
    return ParsedLine(custom_id, start, len(raw), body.model or None, estimate, _MEMBERS[filled], target)


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
    before = _BEFORE_BODY.match(line)
    if before is not None and line.endswith(b"}}"):
        start = before.end()
        raw = line[start:-1]
        try:
            return _decode_line(line[:start] + b"null}"), _decode_body(raw), raw, start
        except msgspec.DecodeError:
            pass  # the body is not the last member, or the line is bad
    envelope = _decode_line(line)
    raw = bytes(envelope.body)
    return envelope, _decode_body(raw), raw, line.find(raw)


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
