"""The lanes that one replica serves, and from which of them its next line is taken."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from backfill.batch import Usage
from backfill.dispatch.fair_share import PRESSED_MARGIN, Demand, FairShare, find_endangered
from backfill.dispatch.lane import Job, Lane
from backfill.dispatch.open_turn import OpenTurn
from backfill.dispatch.tally import Tally
from backfill.status import Urgency

if TYPE_CHECKING:
    from backfill.dispatch.prefix_gate import PrefixGate

__all__ = ["Lanes", "Peer"]

# So long an owner is served before the next one has his turn: what takes less is done at once.
_TURN_S = 10.0
# Until it is known how much the replica does in that time.
_FIRST_LINES = 16
_WEIGHT_OF_LAST = 0.05
# Before a deadline, for the answers to be gathered.
_SLACK_S = 5.0


class Peer(Protocol):
    """Another replica that serves the same lane."""

    @property
    def is_well(self) -> bool:
        """Whether lines may be left to it."""

    @property
    def tally(self) -> Tally:
        """What it did."""

    @property
    def lanes(self) -> "Lanes":
        """What it serves."""


class _Entry:
    """What is known of a lane here."""

    __slots__ = ("others", "ratio")

    def __init__(self, others: Sequence[Peer]) -> None:
        self.others = others
        self.ratio: float | None = None
        """Tokens that a line came to for each that it was taken to need; None: no answer has come yet."""


class Lanes:
    """Batches whose deadline is in danger go first, else owners in turn; of one owner's the order is `_rank`."""

    def __init__(self, replica: str, tally: Tally, clock_ms: Callable[[], int]) -> None:
        self.tokens_per_s = 0.0
        """What the replica does while it is full, in the tokens that lines are charged; 0: not known yet."""
        self.urgency = Urgency()
        """Which deadlines are in danger of all that waits, wherever it is; here only what lies here is seen."""
        self._replica = replica
        self._tally = tally
        self._clock_ms = clock_ms
        self._entries: dict[Lane[OpenTurn], _Entry] = {}
        self._share: FairShare[Lane[OpenTurn]] = FairShare(0.0)
        self.only: Lane[OpenTurn] | None = None
        """The lane, if there is one alone: then nothing has to be chosen, nor charged, nor learned of its lines."""
        self._only_others: Sequence[Peer] = ()
        self._alone_since_ms = clock_ms()
        """Since when the lane has been the only one, if it is."""
        self._ratio = 1.0
        self._line_tokens = 0.0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[Lane[OpenTurn]]:
        return iter(self._entries)

    @property
    def has_unsent(self) -> bool:
        """Whether lines could be sent now."""
        return any(lane.unsent for lane in self._entries)

    @property
    def has_unfinished(self) -> bool:
        """Whether lines could be sent, or wait for another try."""
        return any(lane.unsent or lane.delayed for lane in self._entries if lane.is_open)

    @property
    def due(self) -> tuple[int, int]:
        """Deadline and creation of the batch that is due first, in ms since the epoch."""
        waiting = (lane.turn.turn.batch for lane in self._entries if lane.is_open and (lane.unsent or lane.delayed))
        return min(((batch.deadline_at_ms, batch.created_at_ms) for batch in waiting), default=(2**63, 0))

    @property
    def owners(self) -> set[str]:
        """Whose lines could be sent, or wait for another try."""
        waiting = (lane for lane in self._entries if lane.is_open and (lane.unsent or lane.delayed))
        return {lane.turn.turn.batch.owner for lane in waiting}

    def has_others(self, lane: Lane[OpenTurn]) -> bool:
        """Whether another replica serves the lane too."""
        entry = self._entries.get(lane)
        return entry is not None and bool(entry.others)

    def add(self, lane: Lane[OpenTurn], others: Sequence[Peer]) -> None:
        """Serve a lane, which `others` serve too."""
        if len(self._entries) == 1:
            alone_s = (self._clock_ms() - self._alone_since_ms) / 1000
            self._share.note_uncharged(alone_s * self.tokens_per_s if self.tokens_per_s else math.inf)
        self._entries[lane] = _Entry(others)
        if not self.tokens_per_s:
            self._share.quantum_tokens = max(self._share.quantum_tokens, _FIRST_LINES * lane.turn.tokens_per_line)
        self._share.add(lane, lane.turn.turn.batch.owner, _rank(lane))
        self._note_count()
        self._find_endangered()

    def remove(self, lane: Lane[OpenTurn]) -> None:
        """Forget a lane, if it is there."""
        if self._entries.pop(lane, None) is not None:
            self._share.remove(lane)
            self._note_count()

    def take(self, gate: "PrefixGate") -> tuple[Lane[OpenTurn], Job] | None:
        """The next line that the gate lets through; None if there is none now."""
        only = self.only
        if only is not None:
            if not only.unsent or (self._only_others and self._leaves_to_others(only)):
                return None
            job = only.take(self._replica, gate)
            return None if job is None else (only, job)
        for lane in self._share.order():
            if not self._leaves_to_others(lane):
                job = lane.take(self._replica, gate)
                if job is not None:
                    self._charge(lane, job.line)
                    return lane, job
        return None

    def note_usage(self, lane: Lane[OpenTurn], line: int, usage: Usage) -> None:
        """Learn from an answer what the lane's lines really need."""
        entry = self._entries.get(lane)
        if self.only is not None or entry is None:
            return
        estimated = lane.turn.estimate_tokens(line)
        used = usage.prompt_tokens + usage.completion_tokens + usage.audio_tokens
        # Where an engine tells none, there is nothing better than the estimate.
        ratio = used / estimated if used and estimated else 1.0
        self._ratio += (ratio - self._ratio) * _WEIGHT_OF_LAST
        entry.ratio = ratio if entry.ratio is None else entry.ratio + (ratio - entry.ratio) * _WEIGHT_OF_LAST

    def tick(self, *, is_full: bool) -> None:
        """Look anew how fast the replica is and which deadlines are in danger; `is_full`: it could take no more."""
        if self.only is not None:
            self._line_tokens = self.only.turn.tokens_per_line * self._ratio
        rate = self._tally.requests_per_s * self._line_tokens
        if is_full and rate > 0:
            weight = _WEIGHT_OF_LAST if self.tokens_per_s else 1.0
            self.tokens_per_s += (rate - self.tokens_per_s) * weight
            self._share.quantum_tokens = max(self._line_tokens, self.tokens_per_s * _TURN_S)
        self._find_endangered()

    def _note_count(self) -> None:
        self.only, entry = next(iter(self._entries.items())) if len(self._entries) == 1 else (None, None)
        self._only_others = () if entry is None else entry.others
        self._alone_since_ms = self._clock_ms()

    def _charge(self, lane: Lane[OpenTurn], line: int) -> None:
        ratio = self._entries[lane].ratio
        tokens = lane.turn.estimate_tokens(line) * (self._ratio if ratio is None else ratio)
        self._line_tokens += (tokens - self._line_tokens) * (_WEIGHT_OF_LAST if self._line_tokens else 1.0)
        self._share.charge(lane, tokens)

    def _find_endangered(self) -> None:
        if self.only is not None:
            self._share.endangered = self._share.pressed = ()
            return
        waiting = [lane for lane in self._entries if lane.unsent or lane.delayed]
        waiting.sort(key=lambda lane: lane.turn.turn.batch.deadline_at_ms)
        demands: list[Demand[Lane[OpenTurn]]] = []
        if self.tokens_per_s > 0:
            # A line that is taken at the last moment comes back too late.
            now_ms = self._clock_ms() + 1000 * self._tally.duration_s
            given_up = self.urgency.given_up
            demands = [self._make_demand(lane, now_ms) for lane in waiting if lane.turn.turn.batch.id not in given_up]
        endangered = {*find_endangered(demands, _SLACK_S)}
        pressed = {*find_endangered(demands, _SLACK_S, PRESSED_MARGIN)}
        is_endangered, is_pressed = self.urgency.is_endangered, self.urgency.is_pressed
        self._share.endangered = [lane for lane in waiting if lane in endangered or is_endangered(lane.turn.turn.batch)]
        self._share.pressed = [lane for lane in waiting if lane in pressed or is_pressed(lane.turn.turn.batch)]

    def _make_demand(self, lane: Lane[OpenTurn], now_ms: float) -> Demand[Lane[OpenTurn]]:
        entry = self._entries[lane]
        ratio = self._ratio if entry.ratio is None else entry.ratio
        tokens = (lane.unsent + lane.delayed) * lane.turn.tokens_per_line * ratio
        tokens_per_s = self.tokens_per_s + sum(other.lanes.tokens_per_s for other in entry.others if other.is_well)
        left_s = (lane.turn.turn.batch.deadline_at_ms - now_ms) / 1000
        return Demand(lane, tokens / tokens_per_s, left_s)

    def _leaves_to_others(self, lane: Lane[OpenTurn]) -> bool:
        """Whether the others would be through with all lines that are left before this replica is with one."""
        others = self._entries[lane].others
        if not others:
            return False
        tallies = [other.tally for other in others if other.is_well]
        requests_per_s = sum(tally.requests_per_s for tally in tallies)
        if requests_per_s <= 0:
            return False
        wait_s = (lane.unsent + lane.awaited) / requests_per_s + max(tally.duration_s for tally in tallies)
        return wait_s < self._tally.duration_s


def _rank(lane: Lane[OpenTurn]) -> tuple[int, int, int, str]:
    """Of one owner's batches: the highest priority, then the earliest deadline, then the oldest."""
    batch = lane.turn.turn.batch
    return -batch.priority, batch.deadline_at_ms, batch.created_at_ms, batch.id
