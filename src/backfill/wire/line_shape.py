"""What decides to which endpoints a request can be sent, in one byte of the index; and why it cannot. Pure.

Bits say which members with a prompt are there and not empty, and whether the request may name pictures or clips; what
it names stands in its body only (`media_references`). Or else one bit says that the others are the number of a fault,
which keeps the request from every endpoint. A request that cannot be sent fails by itself: its line is in the error
file, the others run. Two of the faults are of lines that are no requests of their own at all: they stand in the
index so that a batch which passes over such lines knows them.
"""

from enum import IntEnum

from backfill.batch import BatchProblem

__all__ = [
    "HAS_FILE",
    "HAS_INPUT",
    "HAS_MEDIA",
    "HAS_MESSAGES",
    "HAS_PROMPT",
    "HAS_QUERY",
    "HAS_TEXTS",
    "Fault",
    "find_fault_problem",
    "find_request_problem",
    "is_request",
    "read_fault",
    "shape_of_fault",
]

HAS_MESSAGES, HAS_PROMPT, HAS_INPUT = 1, 2, 4
HAS_FILE = 8
"""`file` or `file_url`."""
HAS_QUERY = 16
"""`query` and `documents`."""
HAS_TEXTS = 32
"""`text_1` and `text_2`."""
_IS_FAULT = 64
HAS_MEDIA = 128
"""Maybe a picture or a clip in a message; of lines that were indexed before it was noted, each may have one."""
_FAULT_NUMBER = _IS_FAULT - 1
_LIST = "a non-empty array"
_TEXT = "a non-empty string or array"
# What an endpoint cannot do without: one of these bits, the member's name, and what it is. Others judge for themselves.
_NEEDED = {
    "/v1/chat/completions": (HAS_MESSAGES, "messages", _LIST),
    "/v1/completions": (HAS_PROMPT, "prompt", _TEXT),
    "/v1/embeddings": (HAS_INPUT, "input", _TEXT),
    "/v1/responses": (HAS_INPUT, "input", _TEXT),
    "/v1/messages": (HAS_MESSAGES, "messages", _LIST),
    "/v1/moderations": (HAS_INPUT, "input", _TEXT),
    "/v1/images/generations": (HAS_PROMPT, "prompt", "a non-empty string"),
    "/v1/rerank": (HAS_QUERY, "query", "a non-empty string, beside body.documents"),
    "/v1/score": (HAS_TEXTS | HAS_QUERY, "text_1", "a string or an array, beside body.text_2"),
    "/v1/audio/transcriptions": (HAS_FILE, "file", "the URL of the audio, or an uploaded file's id"),
    "/v1/audio/translations": (HAS_FILE, "file", "the URL of the audio, or an uploaded file's id"),
}


class Fault(IntEnum):
    """What keeps a request from every endpoint; the number is what the index stores."""

    STREAM = 1
    MISSING_BODY = 2
    PARAMS = 3
    """The request stands where another provider has it."""
    INVALID_BODY = 4
    INVALID_MODEL = 5
    UNREADABLE = 6
    """JSON with a text or a number in it that most readers refuse; where, only the line's bytes say (`bad_line`)."""
    NO_REQUEST = 7
    """No JSON, or without a custom id of its own; what it is, only the line's bytes say."""
    REPEATED = 8
    """An earlier line has the same custom id."""


_FAULT_PROBLEMS = {
    Fault.STREAM: BatchProblem(
        "invalid_request",
        "body.stream must be false or absent: a batch answers each request with one whole body.",
        param="body.stream",
    ),
    Fault.MISSING_BODY: BatchProblem(
        "missing_body", "body is missing: the request for the endpoint, a JSON object.", param="body"
    ),
    Fault.PARAMS: BatchProblem(
        "missing_body",
        "body is missing, but there is params, as another provider names it: rename params to body, "
        "and have it hold the request for the endpoint.",
        param="params",
    ),
    Fault.INVALID_BODY: BatchProblem(
        "invalid_body", "body must be a JSON object: the request for the endpoint.", param="body"
    ),
    Fault.INVALID_MODEL: BatchProblem("invalid_model", "body.model must be a string.", param="body.model"),
    Fault.UNREADABLE: BatchProblem("invalid_request", "body has a text or a number that JSON readers refuse."),
    Fault.NO_REQUEST: BatchProblem("invalid_json_line", "The line is no request."),
    Fault.REPEATED: BatchProblem(
        "duplicate_custom_id", "custom_id is used by an earlier line already.", param="custom_id"
    ),
}
_LINE_FAULTS = frozenset({Fault.NO_REQUEST, Fault.REPEATED})
_MISSING_MODEL = BatchProblem(
    "missing_model",
    "body.model is missing, and the batch was created without a model_id to fall back on.",
    param="body.model",
)


def shape_of_fault(fault: Fault) -> int:
    """The shape of a request that no endpoint takes."""
    return _IS_FAULT | fault


def read_fault(shape: int) -> Fault | None:
    """What keeps a request of this shape from every endpoint, if anything does."""
    return Fault(shape & _FAULT_NUMBER) if shape & _IS_FAULT else None


def is_request(shape: int) -> bool:
    """Whether a line of this shape is a request, if maybe one that cannot be sent."""
    return read_fault(shape) not in _LINE_FAULTS


def find_fault_problem(fault: Fault) -> BatchProblem:
    """What is said of a request with this fault."""
    return _FAULT_PROBLEMS[fault]


def find_request_problem(shape: int, endpoint: str, *, has_model: bool) -> BatchProblem | None:
    """Why a request of this shape is not sent to `endpoint`; None if it is. `has_model`: it or its batch names one."""
    fault = read_fault(shape)
    if fault is not None:
        return _FAULT_PROBLEMS[fault]
    needed = _NEEDED.get(endpoint)
    if needed is not None and not shape & needed[0]:
        _, name, form = needed
        return BatchProblem("invalid_request", f"{endpoint} needs body.{name}: {form}.", param=f"body.{name}")
    return None if has_model else _MISSING_MODEL
