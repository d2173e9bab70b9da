"""The lines of one batch and one route, given out so that lines which begin alike go to the same replica."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from backfill.engines import CacheHabit, Replica, Route, rename_model
from backfill.plan import LineGroup

if TYPE_CHECKING:
    from array import array

    from backfill.dispatch.line_sender import SenderSource
    from backfill.dispatch.prefix_gate import Passage, PrefixGate

__all__ = ["Group", "Job", "Lane", "Share", "pays_wide"]

# When it pays to go on with a prefix in all slots of an engine with a cache a slot, each of which computes it anew: the
# answers must be this many times as long as the prefix. Measured on llama.cpp with 8 slots (docs/engines.md): computing
# 522 tokens costs 1.45 s of CPU, and at 8 side by side a line is cheaper than alone by about 12 ms a token.
_WIDENING_GAIN = 1.6
_BYTES_PER_TOKEN = 4
# So many groups of one replica may wait for a prefix before it begins no other: of a file whose every line begins
# alike, one replica would else claim all groups while the first request is with the engine.
_PARKED_MAX = 64


class Job(msgspec.Struct, frozen=True):
    """A line to send now."""

    line: int
    passage: "Passage | None"
    """What it owes the gate when its prompt is computed and when it ends."""


class Group:
    """What is left of a planned group at one replica."""

    __slots__ = ("lines", "pays_wide", "position", "prefix")

    def __init__(self, prefix: tuple[int, ...], lines: "array[int]", *, pays_wide: bool) -> None:
        self.prefix = prefix
        self.pays_wide = pays_wide
        self.lines = lines
        self.position = 0

    @property
    def left(self) -> int:
        """How many lines."""
        return len(self.lines) - self.position

    def pop(self) -> int:
        """The next line."""
        line = self.lines[self.position]
        self.position += 1
        return line

    def split(self) -> "Group":
        """Give away the later half."""
        middle = self.position + self.left // 2
        given = Group(self.prefix, self.lines[middle:], pays_wide=self.pays_wide)
        self.lines = self.lines[:middle]
        return given


class Share:
    """The groups that one replica has begun: those it may go on with, and those that wait for a prefix."""

    __slots__ = ("parked", "ready")

    def __init__(self) -> None:
        self.ready: deque[Group] = deque()
        self.parked: dict[int, list[Group]] = {}

    @property
    def parked_groups(self) -> int:
        """How many wait for a prefix."""
        return sum(map(len, self.parked.values()))

    def groups(self) -> Iterable[Group]:
        """All of them."""
        yield from self.ready
        for groups in self.parked.values():
            yield from groups

    def remove(self, group: Group) -> None:
        """Forget a group."""
        for groups in (self.ready, *self.parked.values()):
            if group in groups:
                groups.remove(group)
                return


_Turn = TypeVar("_Turn")


class Lane(Generic[_Turn]):
    """Lines in planned order, those that came back first.

    A group of lines with a shared prefix belongs to the replica that begins it. A replica that has nothing left to
    begin takes over half of what the largest such group has left, and all of it if that is one line: its replica may be
    down, or slow.
    """

    awaited = 0
    """Of the delayed lines: how many wait for pictures or clips that they name."""
    media: "SenderSource | None" = None
    """Sends its lines with what they name; None: none of them names anything."""

    def __init__(self, turn: _Turn, route: Route, groups: Sequence[LineGroup], *, insert_model: bool) -> None:
        self.turn = turn
        self.route = route
        self.unsent = sum(len(group.lines) for group in groups)
        """Lines that may be given out now; none once the lane is closed."""
        self.delayed = 0
        """Lines that wait for their next try, or for what they name."""
        self.is_open = True
        self._groups = groups
        self._position = 0
        self._free: Group | None = None
        self._returned: deque[int] = deque()
        self._shares = {replica.name: Share() for replica in route.replicas}
        self._new_names = {name: new for name, new in route.names.items() if insert_model or new != route.model}
        self._wakers: list[Callable[[], None]] = []

    def subscribe(self, waker: Callable[[], None]) -> None:
        """Have `waker` called when a line comes back."""
        self._wakers.append(waker)

    def take(self, replica: str, gate: "PrefixGate") -> Job | None:
        """The next line for a replica; None if there is none now that its gate lets through."""
        if not self.unsent:
            return None
        if self._returned:
            self.unsent -= 1
            return Job(self._returned.popleft(), None)
        share = self._shares[replica]
        free = self._free
        if free is not None and not share.ready:
            # Lines that share no beginning with others, as in most files: nothing to ask.
            self.unsent -= 1
            line = free.pop()
            if free.position == len(free.lines):
                self._free = None
            return Job(line, None)
        while (group := self._choose(share, gate)) is not None:
            if group.prefix:
                blocker = gate.find_blocker(group.prefix)
                if blocker is not None:
                    share.ready.popleft()
                    share.parked.setdefault(blocker, []).append(group)
                    continue
            line = group.pop()
            self.unsent -= 1
            if not group.left:
                self._drop(share, group)
            # Entered here and not where it is sent, so that the next one to be taken sees it.
            return Job(line, gate.enter(group.prefix) if group.prefix else None)
        return self._widen(share, gate)

    def release(self, replica: str, prefix: int) -> None:
        """Let a replica's groups go on that wait for a prefix."""
        share = self._shares[replica]
        groups = share.parked.pop(prefix, None)
        if groups is not None:
            share.ready.extendleft(reversed(groups))

    def put_back(self, line: int) -> None:
        """Offer a line again, before all others."""
        if not self.is_open:
            return
        self._returned.append(line)
        self.unsent += 1
        for waker in self._wakers:
            waker()

    def put_back_later(self, line: int, delay_s: float) -> None:
        """Offer a line again after a while."""
        self.delayed += 1
        asyncio.get_running_loop().call_later(delay_s, self._put_back_delayed, line)

    def close(self) -> None:
        """Give out no line any more."""
        self.is_open = False
        self.unsent = 0

    def body_for(self, replica: Replica, body: bytes) -> bytes:
        """The line's body as `replica` wants it: the line's own bytes unless the model has another name there."""
        name = self._new_names.get(replica.name)
        return body if name is None else rename_model(body, name)

    def _put_back_delayed(self, line: int) -> None:
        self.delayed -= 1
        self.put_back(line)

    def _choose(self, share: Share, gate: "PrefixGate") -> Group | None:
        """The group to go on with: one begun, else one without a prefix, else a new one, else somebody else's."""
        if share.ready:
            return share.ready[0]
        if self._free is not None:
            return self._free
        if not self._may_begin(share):
            return None
        if self._position < len(self._groups):
            planned = self._groups[self._position]
            self._position += 1
            group = Group(planned.prefix, planned.lines, pays_wide=pays_wide(planned))
            if group.prefix:
                share.ready.append(group)
            else:
                self._free = group
            return group
        return self._take_over(share, gate)

    @staticmethod
    def _may_begin(share: Share) -> bool:
        """Whether a replica may begin another group."""
        return not share.parked or share.parked_groups < _PARKED_MAX

    def _widen(self, share: Share, gate: "PrefixGate") -> Job | None:
        """With slots to spare and no other work: a line of a group that has its slot, if further slots pay for it."""
        if gate.habit is not CacheHabit.SLOT_AFFINITY:
            return None
        wide = [group for groups in share.parked.values() for group in groups if group.pays_wide]
        if not wide:
            return None
        group = max(wide, key=lambda group: group.left)
        self.unsent -= 1
        line = group.pop()
        if not group.left:
            share.remove(group)
        return Job(line, gate.enter(group.prefix))

    def _take_over(self, share: Share, gate: "PrefixGate") -> Group | None:
        others = [(group, other) for other in self._shares.values() if other is not share for group in other.groups()]
        if not others:
            return None
        largest, owner = max(others, key=lambda other: other[0].left)
        if gate.find_blocker(largest.prefix) is not None:
            return None
        if largest.left > 1:
            largest = largest.split()
        else:
            owner.remove(largest)
        share.ready.append(largest)
        return largest

    def _drop(self, share: Share, group: Group) -> None:
        if group is self._free:
            self._free = None
        else:
            share.ready.popleft()


def pays_wide(planned: LineGroup) -> bool:
    """Whether a group gains from more than one slot of an engine with a cache a slot."""
    return planned.answer_tokens * _BYTES_PER_TOKEN > _WIDENING_GAIN * planned.prefix_bytes
