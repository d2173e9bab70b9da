"""Whose line goes next where several owners have some: deficit round robin in tokens, and deadlines in danger first.

Owners stand in two rows. Whoever comes goes to the first one, which is served before the second, and from there to the
end of the second when its quantum is used up; nobody has a new quantum before the second row has come round to him. So
what fits into a quantum is done at once, and what does not gets an equal share. Pure.
"""

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

__all__ = [
    "ENDANGERED_MARGIN",
    "PRESSED_MARGIN",
    "Demand",
    "FairShare",
    "Queue",
    "count_endangered",
    "find_endangered",
    "sort_out",
]

ENDANGERED_MARGIN = 0.1
PRESSED_MARGIN = 3.0
"""Long before it is in danger, a batch that needs a quarter of the engine until its deadline gets it, and not all of it
at the end."""


class Queue(Hashable, Protocol):
    """Lines of one batch."""

    @property
    def unsent(self) -> int:
        """How many may be given out now."""


_Queue = TypeVar("_Queue", bound=Queue)
_Item = TypeVar("_Item")


class _Account(Generic[_Queue]):
    """An owner: what he has to be done, and how many tokens of it before others have their turn."""

    __slots__ = ("credit", "owner", "queues")

    def __init__(self, owner: str, credit: float) -> None:
        self.owner = owner
        self.credit = credit
        self.queues: list[tuple[Any, _Queue]] = []

    @property
    def has_work(self) -> bool:
        return any(queue.unsent for _, queue in self.queues)


class FairShare(Generic[_Queue]):
    """The queues of all owners at one engine."""

    def __init__(self, quantum_tokens: float) -> None:
        self.quantum_tokens = quantum_tokens
        """What an owner may have done before the next one has his turn."""
        self.endangered: Sequence[_Queue] = ()
        """Served before all others, in this order."""
        self.pressed: Sequence[_Queue] = ()
        """Served before all but these and those who are new."""
        self._accounts: dict[str, _Account[_Queue]] = {}
        self._account_of: dict[_Queue, _Account[_Queue]] = {}
        self._new: deque[_Account[_Queue]] = deque()
        self._old: deque[_Account[_Queue]] = deque()

    def add(self, queue: _Queue, owner: str, rank: Any) -> None:
        """Serve a queue too; among those of its owner the one of the lowest rank goes first."""
        account = self._accounts.get(owner)
        present = [other for other in self._accounts.values() if other.queues and other is not account]
        if len(present) == 1 and present[0] in self._new:
            # Whoever was alone had all there was, and nobody counted.
            self._new.remove(present[0])
            self._old.append(present[0])
        if account is None:
            account = self._accounts[owner] = _Account(owner, self.quantum_tokens)
            self._new.append(account)
        elif account.credit > 0 and not account.has_work and account in self._old:
            # He was here in this round, and did not use it up.
            self._old.remove(account)
            self._new.append(account)
        self._account_of[queue] = account
        account.queues.append((rank, queue))
        account.queues.sort(key=lambda ranked: ranked[0])

    def remove(self, queue: _Queue) -> None:
        """Forget a queue. What its owner used of his turn is known until the others have had theirs."""
        account = self._account_of.pop(queue)
        account.queues = [ranked for ranked in account.queues if ranked[1] is not queue]
        self.endangered = [one for one in self.endangered if one is not queue]
        self.pressed = [one for one in self.pressed if one is not queue]

    def note_uncharged(self, tokens: float) -> None:
        """Who has nothing here now stood back while so much was done for somebody who was alone."""
        for account in [account for account in self._accounts.values() if not account.queues]:
            account.credit += tokens
            if account.credit >= self.quantum_tokens:
                # As new when he comes again.
                del self._accounts[account.owner]
                (self._old if account in self._old else self._new).remove(account)

    def order(self) -> Iterator[_Queue]:
        """The queues with work, the one to take a line from first. Those behind it are for when it gives none now."""
        yield from (queue for queue in self.endangered if queue.unsent)
        self._turn_to_next()
        yield from _with_work(self._new)
        yield from (queue for queue in self.pressed if queue.unsent)
        yield from _with_work(self._old)

    def charge(self, queue: _Queue, tokens: float) -> None:
        """Put a line that was taken on its owner's account.

        Who had to be served out of turn owes no more than a quantum, or he would be starved afterwards.
        """
        account = self._account_of[queue]
        account.credit = max(account.credit - tokens, -self.quantum_tokens - tokens)

    def _turn_to_next(self) -> None:
        """Have an owner in front who has work and credit, if anybody has work."""
        idle = 0
        while (row := self._new or self._old) and idle <= len(self._accounts):
            account = row[0]
            has_work = account.has_work
            if has_work and account.credit > 0:
                return
            row.popleft()
            if not account.queues and row is self._old:
                del self._accounts[account.owner]
                continue
            if has_work:
                account.credit += self.quantum_tokens
            elif row is self._old:
                # What is not used in one round is not saved up for the next.
                account.credit = min(account.credit + self.quantum_tokens, self.quantum_tokens)
            idle = 0 if has_work else idle + 1
            self._old.append(account)


def _with_work(row: Iterable[_Account[_Queue]]) -> Iterator[_Queue]:
    return (queue for account in row for _, queue in account.queues if queue.unsent)


class Demand(NamedTuple, Generic[_Item]):
    """What is left of a batch, and until when."""

    queue: _Item
    work_s: float
    """How long the engine would need if it did nothing else."""
    left_s: float
    """Until the deadline."""


def sort_out(demands: Iterable[Demand[_Item]]) -> tuple[list[Demand[_Item]], list[Demand[_Item]]]:
    """Those that can all be done in time, the earliest deadline first, and those that have to be given up for that.

    As few as possible are given up, the largest (Moore and Hodgson).
    """
    kept: list[Demand[_Item]] = []
    largest: list[tuple[float, int]] = []
    given_up: set[int] = set()
    sum_s = 0.0
    for number, demand in enumerate(sorted(demands, key=lambda demand: demand.left_s)):
        kept.append(demand)
        heapq.heappush(largest, (-demand.work_s, number))
        sum_s += demand.work_s
        while largest and sum_s > demand.left_s:
            work_s, late = heapq.heappop(largest)
            given_up.add(late)
            sum_s += work_s
    feasible = [demand for number, demand in enumerate(kept) if number not in given_up]
    return feasible, [kept[number] for number in sorted(given_up)]


def count_endangered(feasible: Iterable[Demand[_Item]], slack_s: float, margin: float) -> int:
    """How many of the first of these have to go before all else.

    They are in danger as soon as what is due until one of them is, with so much more as `margin` says, leaves no time
    for anything else, not even `slack_s`.
    """
    sum_s, last = 0.0, 0
    for position, demand in enumerate(feasible, 1):
        sum_s += demand.work_s
        if sum_s * (1 + margin) + slack_s > demand.left_s:
            last = position
    return last


def find_endangered(demands: Iterable[Demand[_Item]], slack_s: float, margin: float = ENDANGERED_MARGIN) -> list[_Item]:
    """The queues that miss their deadlines unless they are served first, and now; earliest deadline first.

    Those that cannot be done in time go on with their owners' share. Once there is time for something else again those
    that were in danger are so no more: they get what they need and no more.
    """
    feasible, _ = sort_out(demands)
    return [demand.queue for demand in feasible[: count_endangered(feasible, slack_s, margin)]]
