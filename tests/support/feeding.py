"""What feeders need, without an engine, a disk or a wait: replicas that are told what to do, and turns in memory."""

import asyncio
import json
import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from backfill.batch import Batch, Outcome, State, Usage
from backfill.config import DispatchConfig
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.lane import Lane
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.replies import Replies
from backfill.dispatch.residency import Residency
from backfill.engines import (
    Answered,
    CacheHabit,
    Gauges,
    Lost,
    LostReason,
    OnFirstToken,
    ReplicaLimits,
    Reply,
    Route,
)
from backfill.engines.forwarding import ForwardedAnswer, answer_reply
from backfill.errors import EngineUnavailable
from backfill.journal import Record
from backfill.media_file import MediaFile
from backfill.plan import LineGroup, Plan
from backfill.turns import Turn
from bench.simulated.feeding import feeding

__all__ = [
    "ENDPOINT",
    "FakeReplica",
    "MemoryTurn",
    "feeding",
    "group_of",
    "make_feeder",
    "make_lane",
    "make_limits",
    "make_replies",
    "make_turn",
]

TOKENS_PER_LINE = 15
ENDPOINT = "/v1/chat/completions"


def make_limits(concurrency: int = 4, **limits: Any) -> ReplicaLimits:
    """What a replica takes, from the first moment on."""
    usual: dict[str, Any] = {"endpoints": frozenset({ENDPOINT}), "first_concurrency": concurrency}
    return ReplicaLimits(concurrency=concurrency, **usual | limits)


def make_replies(usage: Usage, duration_s: float, now_s: float = 0.0) -> Replies:
    """One reply that comes now."""
    return Replies([(now_s - duration_s, now_s, usage)])


class FakeReplica:
    """Implements `backfill.engines.Replica`: answers after `duration_s` unless `script` says otherwise."""

    def __init__(
        self,
        name: str = "a",
        limits: ReplicaLimits | None = None,
        *,
        cache_habit: CacheHabit = CacheHabit.NONE,
        duration_s: float = 1.0,
        first_token_s: float | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or make_limits()
        self.cache_habit = cache_habit
        self.address: str | None = None
        self.duration_s = duration_s
        self.first_token_s = first_token_s
        self.is_down = False
        self.script: Callable[[int], Reply | None] = lambda line: None
        """Line -> how its request ends; None: it is answered."""
        self.sent: list[int] = []
        """Lines in the order in which they were received."""
        self.sent_at_s: list[float] = []
        self.in_flight: set[int] = set()
        self.unanswered: set[int] = set()
        """Lines in flight whose first token has not come."""
        self.on_send: Callable[[int], None] = lambda line: None
        self.starts = 0
        self.stops = 0

    async def start(self) -> None:
        """Be up, unless the replica is down."""
        if self.is_down:
            message = "it is down"
            raise EngineUnavailable(message)
        self.starts += self.address is None
        self.address = f"http://{self.name}"

    async def send(
        self,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        """Take so long as was said, then answer as was said."""
        line = json.loads(body)["line"]
        if self.is_down or self.address is None:
            self.address = None
            return Lost(LostReason.UNREACHABLE, "it is down")
        self.sent.append(line)
        self.sent_at_s.append(asyncio.get_running_loop().time())
        self.in_flight.add(line)
        self.unanswered.add(line)
        self.on_send(line)
        try:
            await self._compute(line, on_first_token)
        finally:
            self.in_flight.discard(line)
            self.unanswered.discard(line)
        return self.script(line) or Answered(200, b'{"line":%d}' % line, Usage(10, 5, 1))

    async def forward(self, endpoint: str, body: bytes) -> ForwardedAnswer:
        """Answer as to a line of a batch."""
        return answer_reply(await self.send(endpoint, body))

    async def read_gauges(self) -> Gauges:
        """Say nothing."""
        return Gauges()

    async def stop(self) -> None:
        """Be down until the next start."""
        self.stops += self.address is not None
        self.address = None

    async def _compute(self, line: int, on_first_token: OnFirstToken | None) -> None:
        first_s = self.first_token_s
        if first_s is not None:
            await asyncio.sleep(first_s)
            self.unanswered.discard(line)
            if on_first_token is not None:
                on_first_token()
        await asyncio.sleep(self.duration_s - (first_s or 0.0))


class _Columns:
    """The index of lines whose body is found by their number."""

    def __init__(self) -> None:
        self.body_offsets = range(1 << 32)
        self.body_lengths = defaultdict[int, int](int)  # whatever comes is long enough
        self.token_estimates = (TOKENS_PER_LINE,)


class _Source:
    def __init__(self, bodies: Mapping[int, bytes]) -> None:
        self._bodies = bodies

    def is_at_hand(self, offset: int, length: int) -> bool:
        return True

    def read_on(self, offset: int, length: int) -> bytes:
        return self._bodies.get(offset) or json.dumps({"model": "m", "line": offset}).encode()

    def close(self) -> None:
        pass


class _Journal:
    is_behind = False

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        self.records.append(record)

    async def sync(self) -> None:
        pass

    async def close(self) -> None:
        pass


class MemoryTurn(OpenTurn):
    """An open turn whose journal is a list."""

    def __init__(self, batch: Batch, plan: Plan, bodies: Mapping[int, bytes]) -> None:
        journal = _Journal()
        index, source, writer = cast("tuple[Any, Any, Any]", (_Columns(), _Source(bodies), journal))
        super().__init__(Turn(batch, 1), asyncio.Event(), index, source, writer, plan)
        self.records = journal.records
        self.token_estimate = TOKENS_PER_LINE
        """What each of its lines is taken to need."""

    def estimate_tokens(self, line: int) -> int:
        """What a line is taken to need."""
        return self.token_estimate

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """Line -> what became of it; fails if a line has two records."""
        found = {record.line: record.outcome for record in self.records}
        assert len(found) == len(self.records), "a line was recorded twice"
        return found


def group_of(lines: Sequence[int], *prefix: int, prefix_bytes: int = 0, answer_tokens: int = 0) -> LineGroup:
    """Lines that begin alike."""
    return LineGroup(prefix, array("I", lines), prefix_bytes, answer_tokens)


def make_turn(
    *groups: LineGroup,
    twins: dict[int, list[int]] | None = None,
    bodies: Mapping[int, bytes] | None = None,
    created_at_ms: int = 0,
    deadline_at_ms: int = 1 << 50,
    **batch_facts: Any,
) -> MemoryTurn:
    """A turn on a batch with these groups of one model; `batch_facts` are further members of the batch."""
    facts: dict[str, Any] = {"id": f"batch-{deadline_at_ms}", "owner": "o"} | batch_facts
    batch = Batch(
        endpoint=ENDPOINT,
        input_file_id="f",
        input_size_bytes=1,
        state=State.IN_PROGRESS,
        created_at_ms=created_at_ms,
        deadline_at_ms=deadline_at_ms,
        **facts,
    )
    return MemoryTurn(batch, Plan({0: list(groups)}, twins or {}), bodies or {})


def make_lane(turn: OpenTurn, groups: Sequence[LineGroup], replicas: Sequence[FakeReplica]) -> Lane[OpenTurn]:
    """The lane of a turn with one model, which all replicas serve under its own name."""
    route = Route("m", ENDPOINT, tuple(replicas), {replica.name: "m" for replica in replicas})
    lane = Lane(turn, route, groups, insert_model=False)
    turn.lanes.append(lane)
    return lane


def make_feeder(replica: FakeReplica, residency: Residency | None = None, **policy: Any) -> Feeder:
    """A feeder whose dice fall the same way each time."""
    return Feeder(replica, DispatchConfig(**policy), random.Random(1), residency)
