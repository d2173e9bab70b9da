"""What an HTTP answer of an engine means for the request: pure, from status, headers and bytes to a reply.

| status                        | reply                                                                     |
|-------------------------------|---------------------------------------------------------------------------|
| 2xx, a result of the endpoint | answered                                                                  |
| 2xx, an error inside          | as its number or name is as a status; one that nobody knows: server error |
| 2xx, anything else            | lost: bad answer                                                          |
| 3xx, 401, 403                 | lost: unreachable; the URL or the key that was configured is wrong        |
| 408                           | lost: time-out                                                            |
| 429                           | lost: rate limited                                                        |
| 409, 425, 5xx                 | lost: server error; llama.cpp's 503 while it loads a model is unreachable |
| other 4xx                     | refused                                                                   |

What a result is says `answer`, what is kept of one that is nearly JSON `salvage`.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from backfill.engines.answer import NOT_JSON, NoResult, read_usage
from backfill.engines.error_status import find_status
from backfill.engines.reply import Answered, Lost, LostReason, Refused, Reply
from backfill.engines.salvage import hide_surrogates, salvage
from backfill.wire import read_retry_after

__all__ = ["interpret", "refuse"]

_MESSAGE_LENGTH = 500
# What more of an error is looked at could only be cut away again.
_ERROR_SIZE_MAX_BYTES: Final = 64 * 1024
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def interpret(endpoint: str, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """What the answer means; see the table above. `headers` must ignore case."""
    if 200 <= status < 300:
        try:
            return _read_answer(endpoint, status, body)
        except NoResult as none:
            if not none.error:
                return Lost(LostReason.BAD_ANSWER, _join(str(none).rstrip("."), _find_message(body)), status)
            said = _encode({"error": none.error})
            return _read_failure(find_status(none.error) or 500, headers, said, sent_as=status)
    return _read_failure(status, headers, body)


def _read_failure(status: int, headers: Mapping[str, str], body: bytes, sent_as: int | None = None) -> Reply:
    """What an error means. `sent_as` is the status under which the engine sent it, if it is not its own."""
    sent = f"HTTP {status}" if sent_as is None else f"HTTP {sent_as} with error {status}"
    if status in (401, 403):
        return Lost(LostReason.UNREACHABLE, f"The engine refuses the configured key ({sent}).", status)
    if 300 <= status < 400:
        message = f"The engine answers with a redirect ({sent}): check its URL."
        return Lost(LostReason.UNREACHABLE, message, status)
    if 400 <= status < 500 and status not in _PASSING:
        return Refused(status, _as_object(body))
    said = _find_message(body)
    reason = _PASSING.get(status, LostReason.SERVER_ERROR)
    if status == 503 and said.startswith("Loading model"):
        reason = LostReason.UNREACHABLE
    return Lost(reason, _join(f"The engine answered {sent}", said), status, read_retry_after(headers))


def _join(what: str, said: str) -> str:
    return f"{what}: {said}" if said else f"{what}."


# The 4xx that say something about the moment and nothing about the request.
_PASSING = {
    408: LostReason.TIMEOUT,
    409: LostReason.SERVER_ERROR,
    425: LostReason.SERVER_ERROR,
    429: LostReason.RATE_LIMITED,
}


def refuse(message: str, status: int = 400, param: str | None = None, code: str | None = None) -> Refused:
    """The reply to a request that we refuse ourselves, in the shape an engine would use."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Refused(status, msgspec.json.encode({"error": error}))


def _read_answer(endpoint: str, status: int, body: bytes) -> Reply:
    try:
        usage = read_usage(endpoint, body)
    except ValueError as error:
        body = salvage(body)
        try:
            # For its own sake only: an escape, even of half a pair, is JSON, and stays as the engine wrote it.
            usage = read_usage(endpoint, hide_surrogates(body))
        except ValueError:
            message = f"The engine's answer is not a JSON object in UTF-8: {error}."
            return Lost(LostReason.BAD_ANSWER, message, status)
    return Answered(status, _flatten(body), usage)


def _flatten(body: bytes) -> bytes:
    # A JSON string cannot hold a raw line break, so every one stands between tokens, where a space means the same.
    if b"\n" in body or b"\r" in body:
        return body.translate(_ONE_LINE).strip()
    return body


def _as_object(body: bytes) -> bytes:
    """The body of a refusal, or one of the usual shape around its words where it is no object that can be read."""
    try:
        if isinstance(msgspec.json.decode(body), dict):
            return _flatten(body)
    except NOT_JSON:
        pass
    said = _find_message(body) or "The engine refuses the request and gives no reason."
    return msgspec.json.encode({"error": {"message": said, "type": "invalid_request_error", "code": None}})


def _find_message(body: bytes) -> str:
    """The engine's own words in an error body of any of the usual shapes, on one line and cut to size."""
    try:
        found = msgspec.json.decode(hide_surrogates(salvage(body[:_ERROR_SIZE_MAX_BYTES])))
    except NOT_JSON:
        return _cut(body[: 4 * _MESSAGE_LENGTH].decode(errors="replace"))
    # {"error": {"message": …}}, {"error": …}, {"message": …}, {"detail": …}
    for _ in range(2):
        if isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), "")
    return _cut(found if isinstance(found, str) else _encode(found).decode())


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except RecursionError:  # it was just shallow enough to be read
        return b'"(nested too deeply)"'


def _cut(text: str) -> str:
    # What steers a terminal is no part of a message.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MESSAGE_LENGTH]).split())
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"
