"""A batch in memory, as feeders see one: its lines are made up when they are read, and its journal is a list."""

import asyncio
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec

from backfill.batch import Batch, Outcome, State, Usage
from backfill.dispatch.feeder import Feeder
from backfill.dispatch.lane import Lane
from backfill.dispatch.open_turn import OpenTurn
from backfill.engines import Replica, Route
from backfill.plan import LineGroup, Plan
from backfill.turns import Turn

__all__ = ["Ended", "Lines", "SimulatedTurn"]

_BYTES_A_TOKEN = 4
_ANSWER_TOKENS_MAX = 2_000
_DEADLINE_AT_MS = 1 << 50


@dataclass(frozen=True, slots=True)
class Lines:
    """What the lines of a file ask for. Sizes are tokens; equal seeds give equal lines."""

    prompt_tokens: int = 300
    """On average, from half to one and a half times as many; behind the prefix."""
    completion_tokens: int = 200
    """The median of lognormal answers, of 2,000 at most; 0: embeddings."""
    spread: float = 0.7
    prefixes: int = 0
    """So many beginnings, each shared by as many lines, one after the other in the file; 0: every line has its own."""
    prefix_tokens: int = 512
    seed: int = 0

    @property
    def endpoint(self) -> str:
        """Where they go."""
        return "/v1/completions" if self.completion_tokens else "/v1/embeddings"

    def make_body(self, line: int) -> bytes:
        """The request that stands in this line."""
        dice = random.Random(self.seed * 10_000_019 + line)
        own_tokens = max(1, round(self.prompt_tokens * dice.uniform(0.5, 1.5)))
        prompt = self._make_prefix(line) + f"{line} ".ljust(own_tokens * _BYTES_A_TOKEN, ".")
        if not self.completion_tokens:
            return msgspec.json.encode({"model": "simulated", "input": prompt})
        drawn = round(self.completion_tokens * dice.lognormvariate(0.0, self.spread))
        tokens = min(_ANSWER_TOKENS_MAX, max(1, drawn))
        return msgspec.json.encode({"model": "simulated", "prompt": prompt, "max_tokens": tokens})

    def plan(self, count: int, *, by_prefix: bool = True) -> list[LineGroup]:
        """The lines in file order; a group for each prefix, or one group that knows of none."""
        if not self.prefixes or not by_prefix:
            return [LineGroup((), array("I", range(count)))]
        return [
            LineGroup((prefix + 1,), array("I", range(prefix, count, self.prefixes)), self.prefix_tokens * 4)
            for prefix in range(min(self.prefixes, count))
        ]

    def _make_prefix(self, line: int) -> str:
        if not self.prefixes:
            return ""
        return f"prefix {line % self.prefixes} ".ljust(self.prefix_tokens * _BYTES_A_TOKEN, "-")


class Ended(NamedTuple):
    """A line that has its outcome."""

    line: int
    outcome: Outcome
    now_s: float
    tokens: int
    """Of the answer."""
    cached_tokens: int
    tries: int


class _Nowhere:
    """In place of index, source and journal, none of which a simulated turn asks."""

    is_behind = False
    token_estimates = ()

    def is_at_hand(self, offset: int, length: int) -> bool:  # noqa: ARG002 - there is nothing to be read
        """Nothing has to be brought."""
        return True

    async def sync(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class SimulatedTurn(OpenTurn):
    """`backfill.dispatch.OpenTurn` without a disk."""

    def __init__(self, lines: Lines, groups: Sequence[LineGroup], **batch_facts: Any) -> None:
        facts: dict[str, Any] = {
            "id": "batch_simulated",
            "owner": "nobody",
            "created_at_ms": 0,
            "deadline_at_ms": _DEADLINE_AT_MS,
        }
        batch = Batch(
            endpoint=lines.endpoint,
            input_file_id="file_simulated",
            input_size_bytes=1,
            state=State.IN_PROGRESS,
            **facts | batch_facts,
        )
        nowhere = cast("Any", _Nowhere())
        super().__init__(Turn(batch, 1), asyncio.Event(), nowhere, nowhere, nowhere, Plan({0: list(groups)}, {}))
        self.ended: list[Ended] = []
        """In the order in which they were recorded; a line that stands here twice was recorded twice."""
        self._lines = lines
        self.tokens_per_line = (
            lines.prompt_tokens + lines.prefix_tokens * bool(lines.prefixes) + lines.completion_tokens
        )
        self._groups = groups
        self._left = sum(len(group.lines) for group in groups)

    def read_body(self, line: int) -> bytes:
        """The line's request."""
        return self._lines.make_body(line)

    def estimate_tokens(self, line: int) -> int:  # noqa: ARG002 - the same for each
        """What a line is taken to need."""
        return round(self.tokens_per_line)

    def record(  # noqa: PLR0913 - the fields of a record
        self,
        line: int,
        outcome: Outcome,
        status: int,  # noqa: ARG002 - as the real turn's
        usage: Usage,
        duration_s: float,  # noqa: ARG002 - as the real turn's
        body: bytes,  # noqa: ARG002 - as the real turn's
        *,
        reused: bool = False,  # noqa: ARG002 - as the real turn's
    ) -> None:
        """Note what became of a line."""
        tries = self.tries.pop(line, 0) + 1
        now_s = asyncio.get_running_loop().time()
        self.ended.append(Ended(line, outcome, now_s, usage.completion_tokens, usage.cached_tokens, tries))
        self._left -= 1
        if self._left == 0:
            self.over.set()

    def offer_to(self, feeders: Sequence[Feeder]) -> Lane[OpenTurn]:
        """One lane with all lines, for all of them."""
        replicas: tuple[Replica, ...] = tuple(feeder.replica for feeder in feeders)
        route = Route("simulated", self.endpoint, replicas, {replica.name: "simulated" for replica in replicas})
        lane: Lane[OpenTurn] = Lane(self, route, self._groups, insert_model=False)
        self.lanes.append(lane)
        for feeder in feeders:
            feeder.offer(lane, [other for other in feeders if other is not feeder])
        return lane
