"""What the null engine can say, and how it can be made to behave."""

import json
import re
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import NamedTuple

__all__ = ["ANSWERS", "MODEL", "Answer", "Behaviour", "choose_response", "encode", "make_error", "make_response"]

MODEL = "null-model"
_ECHO = b"%ECHO%"
_FAULT = re.compile(r"ok|hang|close|garbage|pretty|[45]\d\d|429:\d+(\.\d+)?")
_GARBAGE = b"<html>this is not JSON"


def encode(value: object) -> bytes:
    """The value as compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def make_response(status: int, body: bytes, more_headers: str = "") -> bytes:
    """A whole response; each further header ends with CRLF."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more_headers}\r\n"
    )
    return head.encode() + body


def make_error(status: int, message: str, more_headers: str = "") -> bytes:
    """A whole response with an error object of OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": str(status)}
    return make_response(status, encode({"error": error}), more_headers)


class Answer(NamedTuple):
    """What one endpoint answers: the body with a place for the echo, and the whole response without one."""

    body: bytes
    response: bytes


def _make_answers() -> dict[bytes, Answer]:
    text = "%ECHO%" + "The null engine says this to everyone, whatever the question was. " * 5
    usage = {"prompt_tokens": 512, "completion_tokens": 64, "total_tokens": 576}
    shared = {"created": 1760000000, "model": MODEL, "usage": usage}
    chat = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": "stop"}
    plain = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    vector = [round((index % 7 - 3) / 8 + index / 1000, 4) for index in range(64)]
    embedding = {"object": "embedding", "index": 0, "embedding": vector}
    answers = {
        b"/v1/chat/completions": {"id": "chatcmpl-null", "object": "chat.completion", "choices": [chat], **shared},
        b"/v1/completions": {"id": "cmpl-null", "object": "text_completion", "choices": [plain], **shared},
        b"/v1/embeddings": {
            "id": "embd-null%ECHO%",
            "object": "list",
            "data": [embedding],
            "model": MODEL,
            "usage": {"prompt_tokens": 512, "total_tokens": 512},
        },
    }
    bodies = {path: encode(answer) for path, answer in answers.items()}
    return {path: Answer(body, make_response(200, body.replace(_ECHO, b""))) for path, body in bodies.items()}


ANSWERS = _make_answers()


def choose_response(path: bytes, fault: str, marker: str, *, echo: bool, padding_bytes: int = 0) -> bytes:
    """The response to a request with this fault (one that has a response); the text has so much more before it."""
    if fault == "garbage":
        return make_response(200, _GARBAGE)
    if fault not in ("ok", "pretty"):
        status, _, wait_s = fault.partition(":")
        return make_error(int(status), "a fault on request", f"Retry-After: {wait_s}\r\n" if wait_s else "")
    said = f"marker-{marker} ".encode() if echo else b""
    body = ANSWERS[path].body.replace(_ECHO, said + b"x" * padding_bytes)
    if fault == "pretty":
        body = json.dumps(json.loads(body), indent=2).encode()
    return make_response(200, body)


@dataclass
class Behaviour:
    """What is done to requests. Each key that /behave names replaces the former value.

    A fault is one word: `ok`; `hang` (no answer, ever); `close` (the connection, without an answer); `garbage` (200
    and no JSON); `pretty` (200 and JSON over many lines); a status from 400 to 599 (with an error object);
    `429:SECONDS` (with Retry-After).
    """

    delay_ms: float = 0
    """How long each answer takes."""
    places: int = 0
    """So many requests are served at once at most, each for `delay_ms`; the rest wait for them. 0: no bound."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """For each marker, one fault for each try; when they are used up, the request is answered."""
    fault_all: str | None = None
    """The fault of every request, before any scripted one, which it does not use up."""
    hold: bool = False
    """Keep every request that comes until this is false again."""
    echo: bool = False
    """Begin the answer's text with the request's marker (for embeddings: put it into the id)."""
    padding_bytes: int = 0
    """Put so many more bytes into each answer, behind the marker."""

    @property
    def is_plain(self) -> bool:
        """Every request is answered at once with the fixed bytes."""
        is_told = self.faults or self.fault_all or self.hold or self.echo or self.padding_bytes
        return not (self.delay_ms or self.places or is_told)

    def update(self, changes: object) -> None:
        """Take over `changes` as a whole; raises ValueError, and changes nothing, where something is unknown."""
        known = {one.name for one in fields(self)}
        if not isinstance(changes, dict) or not known.issuperset(changes):
            message = f"a behaviour is an object with some of the keys {sorted(known)}"
            raise ValueError(message)
        words = [word for script in (changes.get("faults") or {}).values() for word in script]
        for word in [*words, changes.get("fault_all") or "ok"]:
            if not _FAULT.fullmatch(word):
                message = f"unknown fault {word!r}"
                raise ValueError(message)
        for name, value in changes.items():
            setattr(self, name, {} if name == "faults" and value is None else value)

    def take_fault(self, marker: str) -> str:
        """The fault of this try of the request; a scripted one is used up."""
        if self.fault_all:
            return self.fault_all
        script = self.faults.get(marker)
        return script.pop(0) if script else "ok"
