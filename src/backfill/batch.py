"""The nouns of a batch, its states, and the one table of transitions between them.

    VALIDATING ──admit──▶ IN_PROGRESS ──drain──▶ FINALIZING ──close──▶ COMPLETED
        │ │ │               │      │
        │ │ │               │      └─expire─▶ EXPIRING ───close──▶ EXPIRED
        │ │ └───────expire──┼────────────────────▲
        │ └─────────cancel──┴─────cancel─▶ CANCELLING ──close──▶ CANCELLED
        └─reject──▶ FAILED

FINALIZING, EXPIRING and CANCELLING mean: no line is sent any more, the answers are being gathered. The outside
sees them as each dialect allows (`wire`). COMPLETED, FAILED, EXPIRED and CANCELLED are final.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec

from backfill.errors import Conflict

__all__ = [
    "ENDPOINTS",
    "TRANSITIONS",
    "Batch",
    "BatchProblem",
    "Counts",
    "Dialect",
    "Event",
    "File",
    "FileStatus",
    "Outcome",
    "State",
    "Usage",
    "advance",
]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")


class State(StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    EXPIRING = "expiring"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Nothing about the batch changes any more."""
        return self in _FINAL

    @property
    def is_closing(self) -> bool:
        """No line is sent any more; the answers are being gathered."""
        return self in _CLOSING


class Event(StrEnum):
    """What happens to a batch."""

    ADMIT = "admit"
    REJECT = "reject"
    DRAIN = "drain"
    CANCEL = "cancel"
    EXPIRE = "expire"
    CLOSE = "close"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.VALIDATING, Event.ADMIT): State.IN_PROGRESS,
    (State.VALIDATING, Event.REJECT): State.FAILED,
    (State.VALIDATING, Event.CANCEL): State.CANCELLING,
    (State.VALIDATING, Event.EXPIRE): State.EXPIRING,
    (State.IN_PROGRESS, Event.DRAIN): State.FINALIZING,
    (State.IN_PROGRESS, Event.CANCEL): State.CANCELLING,
    (State.IN_PROGRESS, Event.EXPIRE): State.EXPIRING,
    (State.FINALIZING, Event.CLOSE): State.COMPLETED,
    (State.CANCELLING, Event.CLOSE): State.CANCELLED,
    (State.EXPIRING, Event.CLOSE): State.EXPIRED,
}

_PARTICIPLES = {
    Event.ADMIT: "admitted",
    Event.REJECT: "rejected",
    Event.DRAIN: "drained",
    Event.CANCEL: "cancelled",
    Event.EXPIRE: "expired",
    Event.CLOSE: "closed",
}
_FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED})
_CLOSING = frozenset({State.FINALIZING, State.CANCELLING, State.EXPIRING})


def advance(state: State, event: Event) -> State:
    """The state after `event`; raises Conflict where the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        message = f"A batch that is {state} cannot be {_PARTICIPLES[event]}."
        raise Conflict(message, code="invalid_batch_state") from None


class Outcome(IntEnum):
    """What became of a line for good; the number is what the journal stores.

    Lines that a deadline or a cancel left undone have no record: they are the rest (`deliver`).
    """

    ANSWERED = 1
    """The engine gave a 2xx; the record holds its body."""
    REFUSED = 2
    """The engine (or the routing table) gave a 4xx; trying again would change nothing."""
    EXHAUSTED = 3
    """Every try was lost: 5xx, time-out or dropped connection."""


class Usage(NamedTuple):
    """Tokens as the engine reported them; zero where it reported none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Counts(msgspec.Struct, frozen=True):
    """A fold of the journal: lines by what became of them, and what they cost."""

    total: int = 0
    answered: int = 0
    failed: int = 0
    usage: Usage = Usage()
    """What engines computed; an answer given to several identical requests counts once."""
    reused: int = 0
    """Answered or refused lines that got the outcome of an identical one, and were not sent to an engine."""
    reused_usage: Usage = Usage()
    """What these would have cost."""

    @property
    def done(self) -> int:
        """Lines with a final outcome."""
        return self.answered + self.failed


class BatchProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reason why a file cannot be a batch. `line` counts from 1, blank lines included."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Dialect(StrEnum):
    """Whose API a batch was made through: it decides the form of its result lines."""

    TOGETHER = "together"
    OPENAI = "openai"


class FileStatus(StrEnum):
    """Whether a file's bytes are here."""

    RESERVED = "reserved"
    SEALED = "sealed"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A row of facts about sealed bytes. Times are milliseconds since the epoch."""

    id: str
    owner: str
    filename: str
    purpose: str
    status: FileStatus
    created_at_ms: int
    size_bytes: int = 0
    line_count: int = 0
    sha256: str = ""
    expires_at_ms: int | None = None
    """When the file is removed; None: when it is deleted."""
    survey: bytes = b""
    """What intake found out about the lines as a whole (`intake.survey`), as JSON; empty for output files."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed file, an endpoint, a deadline and a state. Times are milliseconds since the epoch."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    input_size_bytes: int
    state: State
    created_at_ms: int
    deadline_at_ms: int
    dialect: Dialect = Dialect.TOGETHER
    completion_window: str = "24h"
    model_id: str | None = None
    priority: int = 0
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    """How long output and error file are kept; None: until they are deleted."""
    started_at_ms: int | None = None
    closing_at_ms: int | None = None
    ended_at_ms: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    problems: tuple[BatchProblem, ...] = ()
    problem_count: int = 0
    counts: Counts = Counts()
    """Final once the state is; before that only `total` is set and the journal knows the rest."""
    epoch: int = 0
    """How many times a turn on this batch was taken."""
    idempotency_key: str | None = None
    """What the client called its request; the owner makes one batch with it, however often it is sent."""
    request_digest: str = ""
    """What the request asked for, by which it is known again when it is sent a second time."""
    webhook_due_at_ms: int | None = None
    """When the outside is to be told, for the first time or again, that the batch has ended; None: nothing to do."""
    webhook_tries: int = 0
    """How often that was tried so far."""
