"""The gate before one replica: one request leads a new prefix, and a cache a slot is not given more than it holds."""

from typing import TypeVar

import pytest

from backfill.dispatch import prefix_gate
from backfill.dispatch.prefix_gate import Passage, PrefixGate
from backfill.engines import CacheHabit

T = TypeVar("T")


def sure(value: T | None) -> T:
    assert value is not None
    return value


class Gate(PrefixGate):
    """Notes what it released."""

    def __init__(self, habit: CacheHabit, width: int = 1) -> None:
        self.released: list[int] = []
        super().__init__(habit, width, self.released.append)

    def lead(self, *chain: int) -> Passage:
        assert self.find_blocker(chain) is None
        return sure(self.enter(chain))


def test_a_leader_holds_those_with_its_prefix_until_its_first_token() -> None:
    gate = Gate(CacheHabit.PREFIX_LEADER)
    leader = gate.lead(1)
    assert gate.find_blocker((1,)) == 1
    assert gate.find_blocker((2,)) is None
    leader.note_first_token()
    assert gate.released == [1]
    assert gate.find_blocker((1,)) is None
    # The prefix is in the cache: nobody leads any more.
    assert gate.enter((1,)) is None
    leader.note_end(computed=True)
    assert gate.released == [1]


def test_an_engine_that_tells_no_first_token_lets_followers_go_at_the_end() -> None:
    gate = Gate(CacheHabit.PREFIX_LEADER)
    leader = gate.lead(1)
    leader.note_end(computed=True)
    assert gate.released == [1]
    assert gate.enter((1,)) is None


def test_a_leader_that_failed_hands_on_to_the_next() -> None:
    gate = Gate(CacheHabit.PREFIX_LEADER)
    gate.lead(1).note_end(computed=False)
    assert gate.released == [1]
    gate.lead(1)
    assert gate.find_blocker((1,)) == 1


def test_a_chain_waits_for_its_shortest_prefix_and_then_for_the_longer_one() -> None:
    gate = Gate(CacheHabit.PREFIX_LEADER)
    first = gate.lead(1, 2)
    assert gate.find_blocker((1, 3)) == 1
    assert gate.find_blocker((1, 2)) == 1
    first.note_first_token()
    assert gate.released == [1, 2]
    second = gate.lead(1, 3)
    # The second leads only what is new: lines that share no more than 1 with it go at once.
    assert gate.find_blocker((1,)) is None
    assert gate.find_blocker((1, 3)) == 3
    second.note_end(computed=False)
    assert gate.released == [1, 2, 3]


def test_what_the_cache_has_lost_is_led_anew() -> None:
    gate = Gate(CacheHabit.PREFIX_LEADER)
    gate.lead(1).note_first_token()
    gate.forget()
    gate.lead(1)


def test_only_so_many_prefixes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_gate, "_WARM_PREFIXES", 2)
    gate = Gate(CacheHabit.PREFIX_LEADER)
    for prefix in (1, 2, 3):
        gate.lead(prefix).note_first_token()
    assert gate.enter((3,)) is None
    assert gate.enter((2,)) is None
    gate.lead(1)


@pytest.mark.parametrize("width", [1, 3])
def test_a_cache_a_slot_gets_as_many_lines_of_a_prefix_as_were_said(width: int) -> None:
    gate = Gate(CacheHabit.SLOT_AFFINITY, width)
    passages = [gate.lead(7, 8) for _ in range(width)]
    # It is the longest prefix that fills a slot: those that share only the shorter one go elsewhere.
    assert gate.find_blocker((7, 8)) == 8
    assert gate.find_blocker((7, 9)) is None
    passages[0].note_first_token()
    assert gate.find_blocker((7, 8)) == 8
    passages[0].note_end(computed=True)
    assert gate.released == [8]
    gate.lead(7, 8)
    assert gate.find_blocker((7, 8)) == 8


def test_other_engines_never_wait() -> None:
    gate = Gate(CacheHabit.NONE)
    for _ in range(100):
        assert gate.find_blocker((1, 2)) is None
        assert gate.enter((1, 2)) is None
