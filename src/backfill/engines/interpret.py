"""What an HTTP answer of an engine means for the request: pure, from status, headers and bytes to a reply.

| status             | reply                                                                     |
|--------------------|---------------------------------------------------------------------------|
| 2xx, a JSON object | answered                                                                  |
| 2xx, anything else | lost: bad answer                                                          |
| 3xx, 401, 403      | lost: unreachable; the URL or the key that was configured is wrong        |
| 408                | lost: time-out                                                            |
| 429                | lost: rate limited                                                        |
| 409, 425, 5xx      | lost: server error; llama.cpp's 503 while it loads a model is unreachable |
| other 4xx          | refused                                                                   |
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated

import msgspec

from backfill.batch import Usage
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply

__all__ = ["count_usage", "interpret", "refuse"]

_MESSAGE_LENGTH = 500
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None


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


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_answer = msgspec.json.Decoder(_Answer)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_USAGE = Usage()
# RecursionError: msgspec's answer to thousands of nested brackets.
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def interpret(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """What the answer means; see the table above. `headers` must ignore case."""
    if 200 <= status < 300:
        return _read_answer(status, body)
    if status in (401, 403):
        return Lost(LostReason.UNREACHABLE, f"The engine refuses the configured key (HTTP {status}).", status)
    if 300 <= status < 400:
        message = f"The engine answers with a redirect (HTTP {status}): check its URL."
        return Lost(LostReason.UNREACHABLE, message, status)
    if 400 <= status < 500 and status not in _PASSING:
        return Refused(status, _as_object(body))
    said = _find_message(body)
    reason = _PASSING.get(status, LostReason.SERVER_ERROR)
    if status == 503 and said.startswith("Loading model"):
        reason = LostReason.UNREACHABLE
    message = f"The engine answered HTTP {status}: {said}" if said else f"The engine answered HTTP {status}."
    return Lost(reason, message, status, _read_retry_after(headers))


# The 4xx that say something about the moment and nothing about the request.
_PASSING = {
    408: LostReason.TIMEOUT,
    409: LostReason.SERVER_ERROR,
    425: LostReason.SERVER_ERROR,
    429: LostReason.RATE_LIMITED,
}


def count_usage(body: bytes) -> Usage:
    """The tokens an answer reports; zero for what it leaves out or gives in another shape.

    Raises:
        ValueError: the body is not a JSON object in UTF-8.

    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into the strings it skips
        usage = _answer.decode(body).usage
    except msgspec.ValidationError:
        # Either no object at all, or one whose usage is odd: only the second is an answer.
        _decode_object(body)
        return _NO_USAGE
    except _NOT_JSON as error:
        raise ValueError(str(error)) from None
    if usage is None:
        return _NO_USAGE
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = details.cached_tokens if details is not None else None
    prompt_tokens = usage.prompt_tokens or usage.input_tokens or 0
    return Usage(prompt_tokens, usage.completion_tokens or usage.output_tokens or 0, cached or 0)


def refuse(message: str, status: int = 400) -> Refused:
    """The reply to a request that we refuse ourselves, in the shape an engine would use."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return Refused(status, msgspec.json.encode({"error": error}))


def _read_answer(status: int, body: bytes) -> Reply:
    try:
        usage = count_usage(body)
    except ValueError as error:
        return Lost(LostReason.BAD_ANSWER, f"The engine's answer is not a JSON object in UTF-8: {error}.", status)
    return Answered(status, _flatten(body), usage)


def _flatten(body: bytes) -> bytes:
    # A JSON string cannot hold a raw line break, so every one stands between tokens, where a space means the same.
    if b"\n" in body or b"\r" in body:
        return body.translate(_ONE_LINE).strip()
    return body


def _as_object(body: bytes) -> bytes:
    try:
        _decode_object(body)
    except ValueError:
        said = _find_message(body) or "The engine refuses the request and gives no reason."
        return msgspec.json.encode({"error": {"message": said, "type": "invalid_request_error", "code": None}})
    return _flatten(body)


def _decode_object(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        body.decode()
        return _object.decode(body)
    except _NOT_JSON as error:
        raise ValueError(str(error)) from None


def _find_message(body: bytes) -> str:
    """The engine's own words in an error body of any of the usual shapes, on one line and cut to size."""
    try:
        found = msgspec.json.decode(body)
    except _NOT_JSON:
        return _cut(body[: 4 * _MESSAGE_LENGTH].decode(errors="replace"))
    # {"error": {"message": …}}, {"error": …}, {"message": …}, {"detail": …}
    for _ in range(2):
        if isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), "")
    return _cut(found if isinstance(found, str) else msgspec.json.encode(found).decode())


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or from `Retry-After` as seconds or as an HTTP date (RFC 9110, 10.2.3)."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
