"""The nouns of a batch, its states, and the one table of transitions between them.

                         PAUSED ────────drain───────┐
                  resume │   ▲ pause                ▼
                         ▼   │
    VALIDATING ──admit──▶ IN_PROGRESS ──drain──▶ FINALIZING ──close──▶ COMPLETED
        │ │ │               │  │   │
        │ │ │               │  │   └──expire──▶ EXPIRING ───close──▶ EXPIRED
        │ │ └───────expire──┼──┼────────────────────▲
        │ └─────────cancel──┴──┼────cancel──▶ CANCELLING ──close──▶ CANCELLED
        └─reject──▶ FAILED     └──────fail──▶ FAILING ─────close──▶ FAILED

PAUSED is as IN_PROGRESS, but that no line is sent: such a batch is cancelled, expires and fails in the same ways, and
is drained if what was in flight was the rest. One that is paused while VALIDATING is admitted and paused in one write.
FINALIZING, EXPIRING, CANCELLING and FAILING mean: no line is sent any more, the answers are being gathered. From each
of the first three a batch whose answers cannot be gathered goes to FAILING too. The outside sees them as each dialect
allows (`wire`). COMPLETED, FAILED, EXPIRED and CANCELLED are final.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec

from backfill.errors import Conflict
from backfill.purposes import MEDIA_PURPOSES

__all__ = [
    "AUDIO_ENDPOINTS",
    "AUDIO_TOKENS_PER_S",
    "ENDPOINTS",
    "HOUR_MS",
    "TRANSITIONS",
    "Batch",
    "BatchProblem",
    "Counts",
    "Dialect",
    "Event",
    "File",
    "FileStatus",
    "Outcome",
    "Price",
    "Reservation",
    "Standing",
    "State",
    "Usage",
    "UsageRow",
    "advance",
    "fit_to_endpoint",
    "infer_usage",
]

HOUR_MS = 3_600_000
AUDIO_ENDPOINTS = ("/v1/audio/transcriptions", "/v1/audio/translations")
ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    *AUDIO_ENDPOINTS,
    "/v1/moderations",
    "/v1/rerank",
    "/v1/score",
    "/v1/messages",
    "/v1/images/generations",
)
"""Those whose requests and answers are known. An engine that somebody else runs may have others (`engines`)."""


class State(StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    EXPIRING = "expiring"
    FAILING = "failing"
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
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    CANCEL = "cancel"
    EXPIRE = "expire"
    FAIL = "fail"
    CLOSE = "close"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.VALIDATING, Event.ADMIT): State.IN_PROGRESS,
    (State.VALIDATING, Event.REJECT): State.FAILED,
    (State.VALIDATING, Event.CANCEL): State.CANCELLING,
    (State.VALIDATING, Event.EXPIRE): State.EXPIRING,
    (State.IN_PROGRESS, Event.DRAIN): State.FINALIZING,
    (State.IN_PROGRESS, Event.CANCEL): State.CANCELLING,
    (State.IN_PROGRESS, Event.EXPIRE): State.EXPIRING,
    (State.IN_PROGRESS, Event.FAIL): State.FAILING,
    (State.IN_PROGRESS, Event.PAUSE): State.PAUSED,
    (State.PAUSED, Event.RESUME): State.IN_PROGRESS,
    (State.PAUSED, Event.DRAIN): State.FINALIZING,
    (State.PAUSED, Event.CANCEL): State.CANCELLING,
    (State.PAUSED, Event.EXPIRE): State.EXPIRING,
    (State.PAUSED, Event.FAIL): State.FAILING,
    (State.FINALIZING, Event.FAIL): State.FAILING,
    (State.CANCELLING, Event.FAIL): State.FAILING,
    (State.EXPIRING, Event.FAIL): State.FAILING,
    (State.FINALIZING, Event.CLOSE): State.COMPLETED,
    (State.CANCELLING, Event.CLOSE): State.CANCELLED,
    (State.EXPIRING, Event.CLOSE): State.EXPIRED,
    (State.FAILING, Event.CLOSE): State.FAILED,
}

_PARTICIPLES = {event: event.value.removesuffix("e") + "ed" for event in Event} | {
    Event.ADMIT: "admitted",
    Event.CANCEL: "cancelled",
}
_FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED})
_CLOSING = frozenset({State.FINALIZING, State.CANCELLING, State.EXPIRING, State.FAILING})


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


AUDIO_TOKENS_PER_S = 25
"""As so many tokens of a prompt a second of audio counts where work of all kinds is told in tokens."""


class Usage(NamedTuple):
    """Tokens as the engine reported them; zero where it reported none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    audio_ms: int = 0
    """Of the clips that were written down."""

    @property
    def audio_tokens(self) -> int:
        """As how many tokens the audio counts among work of other kinds."""
        return self.audio_ms * AUDIO_TOKENS_PER_S // 1000


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


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model costs: integers, in billionths of a dollar for a million tokens; None: not known, which is not 0."""

    input_per_million: int | None = None
    cached_input_per_million: int | None = None
    """None: as other input."""
    output_per_million: int | None = None
    audio_per_minute: int | None = None
    """In billionths of a dollar for a minute."""
    discount_percent: int = 0
    """Taken off for batches."""


class Reservation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the lines of a batch are taken to need of one model."""

    lines: int
    prompt_tokens: int
    completion_tokens: int
    prompt_per_mille: int = 1000
    """The guess for the prompts was multiplied by so many thousandths, as engines had reported of earlier batches."""

    def left(self, done: int) -> int:
        """Tokens that are still to be computed once so many of the lines are done; the last line has its share."""
        left = max(0, self.lines - done)
        tokens = self.prompt_tokens + self.completion_tokens
        return -(-tokens * left // self.lines) if left else 0


# How long a clip is taken to be of which nothing is known yet.
_CLIP_LENGTH_S = 60
_ANSWERLESS = frozenset({"/v1/embeddings", "/v1/moderations", "/v1/rerank", "/v1/score", "/v1/images/generations"})


def fit_to_endpoint(need: Reservation, endpoint: str) -> Reservation:
    """What is guessed of the lines themselves, put right by what is done with them at the endpoint."""
    if endpoint in AUDIO_ENDPOINTS:
        # The lines say only where the audio is.
        audio_tokens = need.lines * _CLIP_LENGTH_S * AUDIO_TOKENS_PER_S
        return msgspec.structs.replace(need, prompt_tokens=audio_tokens, completion_tokens=0)
    return msgspec.structs.replace(need, completion_tokens=0) if endpoint in _ANSWERLESS else need


class UsageRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the lines of a batch for one model used that finished in one hour: a fold of the journal, each line once."""

    model: str
    """As the lines name it, or else the batch; empty: neither names one. "*": one of those beyond the first hundred."""
    hour: int
    """Whole hours from the epoch to the one in which the lines finished."""
    answered: int = 0
    failed: int = 0
    usage: Usage = Usage()
    """What engines computed."""
    reused: int = 0
    """Of the lines those that got the outcome of an identical one."""
    reused_usage: Usage = Usage()
    """What these would have used."""


class Standing(NamedTuple):
    """How far a batch is, and what it used so far."""

    counts: Counts
    usage: tuple[UsageRow, ...] = ()


def infer_usage(counts: Counts, model_id: str | None, ended_at_ms: int | None) -> tuple[UsageRow, ...]:
    """What a batch used that has no rows, as it ended before there were any: as if all was its model's, at its end."""
    if ended_at_ms is None or not (counts.answered or any(counts.usage)):
        return ()
    return (
        UsageRow(
            model_id or "",
            ended_at_ms // HOUR_MS,
            counts.answered,
            counts.failed,
            counts.usage,
            counts.reused,
            counts.reused_usage,
        ),
    )


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
    """What intake found out about the lines as a whole (`intake.survey`), as JSON; empty for what has no requests."""

    @property
    def is_media(self) -> bool:
        """Whether requests may name it."""
        return self.purpose in MEDIA_PURPOSES


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
    paused_at_ms: int | None = None
    """Since when it is PAUSED, if it is."""
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
    holder: str | None = None
    """Who took the last turn and has not given it back; None: nobody, so that nobody writes to the journal."""
    idempotency_key: str | None = None
    """What the client called its request; the owner makes one batch with it, however often it is sent."""
    request_digest: str = ""
    """What the request asked for, by which it is known again when it is sent a second time."""
    webhook_due_at_ms: int | None = None
    """When the outside is to be told, for the first time or again, that the batch has ended; None: nothing to do."""
    webhook_tries: int = 0
    """How often that was tried so far."""
    key_id: str | None = None
    """The key that made it, if it was one of the database's."""
    prices: dict[str, Price] = {}
    """Model -> what it cost when the batch was made; models without a price are left out."""
    reserved: dict[str, Reservation] = {}
    """Model -> what the batch was taken to need when it was made."""
    usage: tuple[UsageRow, ...] = ()
    """What it used, written with its final state; before that only the journal knows."""
    name: str | None = None
    """What its owner calls it."""
    skips_invalid_lines: bool = False
    """Lines that are no requests go to the error file, and the others run; else such a line fails the batch."""
    own_webhook_url: str | None = None
    """Where its end is told beside the server's own address; as secret as what its owner put into it."""
    own_webhook_due_at_ms: int | None = None
    """As `webhook_due_at_ms`, of its own address."""
    own_webhook_tries: int = 0
    slices: int = 0
    """Into how many slices it was cut, so that several processes can work on it; 0: it is worked on as a whole."""

    @property
    def used(self) -> tuple[UsageRow, ...]:
        """As `usage`; of a batch that ended before there was such a thing what its counts tell."""
        return self.usage or infer_usage(self.counts, self.model_id, self.ended_at_ms)
