"""What an engine answers at an audio endpoint: as one JSON object in any case, and how much audio it was. Pure.

| asked for, answered                        | becomes                                                      |
|--------------------------------------------|--------------------------------------------------------------|
| anything, an object                        | as it is                                                     |
| text, srt or vtt; a JSON string            | an object with it as `text`, and with `usage` if it is known |
| text, srt or vtt; text that is no HTML     | the same                                                     |
| anything else                              | no result                                                    |

How long the clip was says `usage.seconds`; else `duration`, which some write as a string; else what was found in the
clip itself. An engine that cannot tell says 0.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from backfill.engines.answer import NOT_JSON
from backfill.engines.interpret import interpret
from backfill.engines.reply import Answered, Refused, Reply
from backfill.media_file import MediaFile

__all__ = ["interpret_audio"]

_TEXT_FORMATS: Final = frozenset({"text", "srt", "vtt"})
_TOO_LARGE: Final = 413
_NEVER: Final = 501
# A record holds no more, and no clip is as long.
_MOST_MS: Final = 2**32 - 1


class _Measured(msgspec.Struct):
    usage: Any = None
    duration: Any = None


_measured = msgspec.json.Decoder(_Measured)


def interpret_audio(
    endpoint: str, status: int, headers: Mapping[str, str], body: bytes, *, asked: str, clip: MediaFile
) -> Reply:
    """What the answer to a request for `clip` means; `asked` is the form that was wanted of it (`response_format`)."""
    if 200 <= status < 300 and asked in _TEXT_FORMATS:
        body = _wrap(headers.get("Content-Type", ""), body, clip)
    # llama.cpp's for a model that has no ears: trying again would give it none.
    reply = interpret(endpoint, 400 if status == _NEVER else status, headers, body)
    if isinstance(reply, Answered):
        audio_ms = _find_length_ms(reply.body) or min(clip.duration_ms or 0, _MOST_MS)
        return msgspec.structs.replace(reply, usage=reply.usage._replace(audio_ms=audio_ms))
    if isinstance(reply, Refused):
        body = _tell_size(reply.body, clip) if status == _TOO_LARGE else reply.body
        return Refused(status if status == _NEVER else reply.status, body)
    return reply


def _wrap(content_type: str, body: bytes, clip: MediaFile) -> bytes:
    """The answer as an object; bytes that are none of what was asked for stay as they are."""
    try:
        found = msgspec.json.decode(body) if body[:1] in b'{"' or "json" in content_type else None
    except NOT_JSON:
        found = None
    if isinstance(found, dict) or "html" in content_type:
        return body
    answer: dict[str, object] = {"text": found if isinstance(found, str) else body.decode(errors="replace")}
    if clip.duration_ms:
        answer["usage"] = {"type": "duration", "seconds": math.ceil(clip.duration_ms / 1000)}
    return msgspec.json.encode(answer)


def _find_length_ms(body: bytes) -> int:
    """What the engine says of the clip's length; 0 if that is nothing."""
    try:
        answer = _measured.decode(body)
    except NOT_JSON:
        return 0
    usage = answer.usage if isinstance(answer.usage, dict) else {}
    return _read_seconds(usage.get("seconds")) or _read_seconds(answer.duration)


def _read_seconds(value: object) -> int:
    try:
        length_ms = float(value) * 1000 if isinstance(value, (int, float, str)) else 0.0
    except (ValueError, OverflowError):
        return 0
    return min(round(length_ms), _MOST_MS) if math.isfinite(length_ms) and length_ms > 0 else 0


def _tell_size(body: bytes, clip: MediaFile) -> bytes:
    """A refusal for the size with the size in it: servers leave out what was too large, and for what limit."""
    answer = msgspec.json.decode(body)
    error = answer.get("error")
    said = error.get("message") if isinstance(error, dict) else None
    told = f"The engine takes no clip of {clip.size_bytes:,} bytes"
    message = f"{told}: {said}" if isinstance(said, str) and said else f"{told}."
    shape = error if isinstance(error, dict) else {"type": "invalid_request_error", "code": None}
    return msgspec.json.encode({**answer, "error": {**shape, "message": message}})
