"""Which prefixes one replica's cache holds, is filling or is busy with, and so which lines may go to it now.

An engine whose slots share a cache (`prefix_leader`) computes a new prefix once for each request that is admitted
before the first of them is through: so one request leads and those that share its beginning wait for its first token.
An engine with a cache a slot (`slot_affinity`) keeps a prefix only while the slot goes on with lines of that prefix:
so no more lines of one prefix are in flight than may fill slots with it. For other engines nothing is held back.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from backfill.engines import Answered, CacheHabit, Reply

__all__ = ["Passage", "PrefixGate", "leave_gate"]

# Beginnings remembered as computed; an engine's cache holds fewer, and one led twice costs no more than without us.
_WARM_PREFIXES = 4096


class Passage:
    """What one request owes the gate: the prefixes it leads, or holds a place of."""

    __slots__ = ("_gate", "_held")

    def __init__(self, gate: "PrefixGate", held: Sequence[int]) -> None:
        self._gate = gate
        self._held = held

    def note_first_token(self) -> None:
        """The prompt is computed: whoever waits for its beginning may go."""
        if self._gate.habit is CacheHabit.PREFIX_LEADER:
            self._leave(computed=True)

    def note_end(self, *, computed: bool) -> None:
        """The request is over, and `computed` tells whether the engine did compute its prompt."""
        self._leave(computed=computed)

    def _leave(self, *, computed: bool) -> None:
        held, self._held = self._held, ()
        for prefix in held:
            self._gate.leave(prefix, computed=computed)


class PrefixGate:
    """The gate before one replica. Prefixes are hashes, given as a chain from the shortest to the longest."""

    def __init__(self, habit: CacheHabit, width: int, release: Callable[[int], None]) -> None:
        """`width` lines of one prefix at once, for slot affinity; `release` is called with a prefix that is free."""
        self.habit = habit
        self._width = width
        self._release = release
        self._busy: dict[int, int] = {}
        self._warm: OrderedDict[int, None] = OrderedDict()

    def find_blocker(self, chain: Sequence[int]) -> int | None:
        """The prefix that a line with this chain has to wait for; None if it may go."""
        if self.habit is CacheHabit.PREFIX_LEADER:
            for prefix in chain:
                if prefix in self._busy:
                    return prefix
        elif self.habit is CacheHabit.SLOT_AFFINITY and self._busy.get(chain[-1], 0) >= self._width:
            return chain[-1]
        return None

    def enter(self, chain: Sequence[int]) -> Passage | None:
        """Let a line through; None if it leads and holds nothing."""
        if self.habit is CacheHabit.PREFIX_LEADER:
            led = [prefix for prefix in chain if prefix not in self._warm]
        elif self.habit is CacheHabit.SLOT_AFFINITY:
            led = [chain[-1]]
        else:
            led = []
        for prefix in led:
            self._busy[prefix] = self._busy.get(prefix, 0) + 1
        return Passage(self, led) if led else None

    def leave(self, prefix: int, *, computed: bool) -> None:
        """A request is through with a prefix that it led or held."""
        left = self._busy[prefix] - 1
        if left:
            self._busy[prefix] = left
        else:
            del self._busy[prefix]
        if computed and self.habit is CacheHabit.PREFIX_LEADER:
            self._warm[prefix] = None
            if len(self._warm) > _WARM_PREFIXES:
                self._warm.popitem(last=False)
        self._release(prefix)

    def forget(self) -> None:
        """The replica's cache is gone, as after its restart."""
        self._warm.clear()


def leave_gate(passage: Passage | None, reply: Reply | None) -> None:
    """A request is over with this reply, or without one; one that owed the gate nothing has no passage."""
    if passage is not None:
        passage.note_end(computed=isinstance(reply, Answered))
