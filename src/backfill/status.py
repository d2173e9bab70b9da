"""What the server tells of its models and replicas, and of batches that wait."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

import msgspec

__all__ = [
    "WORKER_MEMORY_MS",
    "WORKER_SILENCE_MS",
    "Bottleneck",
    "Due",
    "Forecast",
    "LiveUse",
    "MetricFamily",
    "MetricsSource",
    "Offer",
    "ReplicaState",
    "ReplicaStatus",
    "ServedModel",
    "Urgency",
    "WaitReason",
    "Waiting",
    "WorkerReport",
    "WorkerStatus",
]

LiveUse = tuple[int, int]
"""Live requests that a process has let in for a key, and their tokens, since the first one."""
_MESSAGE_LENGTH = 500
WORKER_SILENCE_MS = 15_000
"""A worker that has told nothing for so long is shown as lost."""
WORKER_MEMORY_MS = 3_600_000
"""One that has told nothing for so long is not shown any more."""


class Bottleneck(StrEnum):
    """What keeps a replica from doing more."""

    WORK = "work"
    """Nothing: there are no more lines for it."""
    ENGINE = "engine"
    """It computes as fast as it can: more requests in flight give no more tokens."""
    UPSTREAM_LIMIT = "upstream_limit"
    """It answers 429, or asks to wait."""
    CEILING = "ceiling"
    """The configured concurrency."""
    LIVE_TRAFFIC = "live_traffic"
    """Live requests, which go first."""
    DISK = "disk"
    """The journal's disk does not keep up."""
    BACKFILL = "backfill"
    """This process: its event loop has no time left."""
    UNKNOWN = "unknown"
    """Still being found out."""


class Forecast(msgspec.Struct, frozen=True):
    """When a batch will be done, if nothing changes."""

    done_at_ms: int
    """Milliseconds since the epoch."""
    is_late: bool
    """That is after its deadline."""


class ReplicaState(StrEnum):
    """How a replica is."""

    DOWN = "down"
    """Not started: nothing needed it so far, or another replica has its memory."""
    STARTING = "starting"
    UP = "up"
    PROBING = "probing"
    """It failed; one request at a time tries whether it is well again."""
    PAUSED = "paused"
    """It failed or asked to wait; nothing is sent for a while."""


class ServedModel(msgspec.Struct, frozen=True):
    """A model that requests may ask for, and at which endpoints."""

    id: str
    endpoints: tuple[str, ...]


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, now."""

    name: str
    state: ReplicaState
    bottleneck: Bottleneck
    in_flight: int
    """Requests that are with the engine."""
    concurrency_limit: int
    """Requests that it is given at most, as found so far."""
    concurrency_ceiling: int
    """As configured."""
    requests_per_s: float
    """Answers over the last seconds."""
    completion_tokens_per_s: float
    answered: int
    """Since the server started; so are those below."""
    lost: int
    """Requests that came to nothing and were tried again."""
    rate_limited: int
    """Requests answered with 429."""
    reused: int
    """Lines answered with the answer of an identical one."""
    preempted: int = 0
    """Requests that were cancelled to make a place for a live one; their lines are sent again."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    busy_ms: int = 0
    """How long it had requests of batches to answer, as far as they were answered."""
    hardware_cost_per_million: str | None = None
    """What its time cost for a million of these tokens; None: its settings do not say what it costs."""
    list_price_per_million: str | None = None
    """What the same tokens would cost at list price; None: not known."""
    currency: str | None = None
    """That of these two."""
    live_in_flight: int = 0
    """Live requests that are with the engine, those of others by its own gauges."""
    batch_limit: int | None = None
    """Requests of batches that live requests leave room for; None: all that the concurrency limit says."""
    waiting_in_engine: int | None = None
    """As the engine's own gauges say; None where it has none."""
    kv_cache_use: float | None = None
    """From 0 to 1."""
    trouble: str | None = None
    """Why nothing is sent to it now."""


class Offer(msgspec.Struct, frozen=True):
    """What one replica takes."""

    models: tuple[str, ...]
    """Ids that requests may name; "*" for any."""
    endpoints: tuple[str, ...]


class Due(Protocol):
    """What of a batch says whether its deadline is in danger."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def endpoint(self) -> str:
        """Where its lines go."""

    @property
    def model_id(self) -> str | None:
        """What all its lines name, if that is known."""

    @property
    def reserved(self) -> Mapping[str, object]:
        """What they name, where that was noted."""

    @property
    def deadline_at_ms(self) -> int:
        """Until when there is time."""


class Urgency(msgspec.Struct, frozen=True):
    """Which deadlines are in danger, of all that waits, as one process judges it for all. Times: ms since the epoch."""

    judged_at_ms: int = 0
    due: dict[str, tuple[int, int]] = {}
    """Lines (see `name_lines`) -> what of them is due by the first time is late unless it goes before all others, and
    what is due by the second takes much of the time that is left until then."""
    given_up: frozenset[str] = frozenset()
    """Batches that are due as early, for which there is no time any more."""

    @staticmethod
    def name_lines(endpoint: str, model: str) -> str:
        """The name of all lines for a model at an endpoint."""
        return f"{endpoint} {model}"

    def is_endangered(self, batch: Due) -> bool:
        """Whether it is late unless it goes before all others."""
        return self._find_until_ms(batch, 0) >= batch.deadline_at_ms and batch.id not in self.given_up

    def is_pressed(self, batch: Due) -> bool:
        """Whether it is to go before others that have more time."""
        return self._find_until_ms(batch, 1) >= batch.deadline_at_ms and batch.id not in self.given_up

    def _find_until_ms(self, batch: Due, which: Literal[0, 1]) -> int:
        lines = (self.name_lines(batch.endpoint, model) for model in batch.reserved or (batch.model_id or "",))
        return max((self.due[one][which] for one in lines if one in self.due), default=0)


class WorkerReport(msgspec.Struct, frozen=True):
    """What a process that has engines tells of them."""

    replicas: tuple[ReplicaStatus, ...] = ()
    models: tuple[ServedModel, ...] = ()
    batches: tuple[str, ...] = ()
    """Ids of those that it works on."""
    work_left: dict[str, tuple[float, float]] = {}
    """Batch that was not cut -> tokens of prompts, but for cached ones, and of answers that it still needs."""
    slice_work: dict[str, tuple[int, float, float]] = {}
    """Batch that was cut -> how many of its slices are worked on here, and the tokens that these still need."""
    ratios: dict[str, tuple[float, float]] = {}
    """Replica -> how many tokens of prompts and of answers come for each that was guessed, where that is known."""
    token_s: dict[str, tuple[float, float]] = {}
    """Replica -> seconds for a token of a prompt and of an answer, where that is known."""
    any_model_at: tuple[str, ...] = ()
    """Endpoints at which one of its engines takes any model."""
    left_batches: Mapping[str, tuple[str, ...]] = {}
    """Batch of which it has left lines to others -> the models that these name."""
    left_slices: Mapping[str, tuple[int, ...]] = {}
    """The same batches, if they were cut -> the slices of which it has."""
    offers: dict[str, Offer] = {}
    """Replica -> what it takes."""
    address: str = ""
    """Base URL at which it answers what other processes pass on; empty: none."""
    live_use: dict[str, LiveUse] = {}
    """Key -> what was let in there, of a process that has no engines; of keys that were used of late."""
    urgency: Urgency | None = None
    """Which deadlines are in danger, if it is this process that judges it."""
    has_ended: bool = False
    """In order: nothing of it is shown any more, but what it served may come back."""

    def end(self) -> "WorkerReport":
        """What is told of it once it has ended."""
        return WorkerReport(models=self.models, any_model_at=self.any_model_at, has_ended=True)

    def serves(self, model: str, endpoint: str) -> bool:
        """Whether one of its engines takes such requests."""
        if endpoint in self.any_model_at:
            return True
        return any(served.id == model and endpoint in served.endpoints for served in self.models)

    def find_replicas(self, model: str, endpoint: str) -> tuple[str, ...]:
        """The replicas that list this very id, or "*", for the endpoint."""
        return tuple(
            name for name, offer in self.offers.items() if model in offer.models and endpoint in offer.endpoints
        )


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has engines, as it told last of itself. Times are milliseconds since the epoch."""

    id: str
    role: str
    host: str
    pid: int
    version: str
    started_at_ms: int
    seen_at_ms: int
    report: WorkerReport = WorkerReport()

    def is_lost(self, now_ms: int, silence_ms: int = WORKER_SILENCE_MS) -> bool:
        """Whether it has ended, or been silent for so long that it must be taken for dead."""
        return self.report.has_ended or now_ms - self.seen_at_ms > silence_ms


class WaitReason(StrEnum):
    """Why a batch does not move. The words stand in batch objects: they are part of the interface."""

    STORE = "store_unavailable"
    """The disk or the database takes or gives nothing."""
    ENGINE = "engine_unavailable"
    """No engine that serves its lines can be reached, or wants what it is sent."""
    STARTING = "engine_starting"
    """The engine is being started; loading a model takes minutes."""
    RATE_LIMIT = "rate_limited"
    """The engine answers 429, and nothing else."""
    MEMORY = "engine_memory"
    """Another engine has the memory that its engine needs."""
    LIVE_TRAFFIC = "live_traffic"
    """Live requests go first."""
    MEDIA = "media_fetches"
    """What its requests name by links is being fetched."""
    OTHER_BATCHES = "other_batches"
    """Batches whose turn it is first are worked on: `docs/service.md`."""
    PAUSED = "paused"
    """Its owner has paused it, and no line is sent until he resumes it."""
    INTERNAL = "internal_error"
    """A fault of Backfill's own; it is tried again."""


class Waiting(msgspec.Struct, frozen=True):
    """What holds a batch up, now."""

    reason: WaitReason
    message: str
    """One sentence, of bounded length, without paths of this machine."""
    since_ms: int
    """Milliseconds since the epoch."""

    @classmethod
    def explain(cls, reason: WaitReason, message: str, since_ms: int) -> "Waiting":
        """The message on one line, and cut if it is long: an engine's own words may be part of it."""
        line = " ".join(message.split())
        return cls(reason, line if len(line) <= _MESSAGE_LENGTH else f"{line[: _MESSAGE_LENGTH - 1]}…", since_ms)


class MetricFamily(NamedTuple):
    """What one metric of `/metrics` says at this moment, without the library that writes it."""

    name: str
    """With its unit at the end; a counter without the `_total` that it is shown with."""
    description: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]
    """Values of the labels -> the number. Bounded by whoever makes them: of keys, owners and models there may be many,
    so what lies beyond the first hundred or so goes together under "other"."""


MetricsSource = Callable[[], Awaitable[Sequence[MetricFamily]]]
"""A part of the server that has something to tell; asked anew for each answer."""
