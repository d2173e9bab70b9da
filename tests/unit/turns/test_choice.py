"""Whose batch gets a place: owners in turn, the pressed in between, and always a place for who has none."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Batch, Counts, State
from backfill.config import LimitsConfig
from backfill.status import Urgency
from backfill.store import Metadata
from backfill.turns import Turns
from backfill.turns.choice import Choice, Stock
from tests.support.rows import RowsPlace

NOW_MS = 1_000_000
HOUR_MS = 3_600_000
PLACES = 96


def make_batch(number: int, owner: str, *, left_ms: int = 20 * HOUR_MS, lines: int = 5, priority: int = 0) -> Batch:
    return Batch(
        id=f"batch-{number:06}",
        owner=owner,
        endpoint="/v1/chat/completions",
        input_file_id="f",
        input_size_bytes=1,
        state=State.IN_PROGRESS,
        created_at_ms=NOW_MS + left_ms - 24 * HOUR_MS,
        deadline_at_ms=NOW_MS + left_ms,
        priority=priority,
        counts=Counts(total=lines),
    )


def test_a_single_owner_leaves_a_third_of_the_places_to_others() -> None:
    waiting = [make_batch(number, "a") for number in range(200)]
    taken = Choice([], PLACES, NOW_MS, 0.0).choose([], waiting)
    assert len(taken) == 64
    late = Choice(taken, PLACES - 64, NOW_MS, 0.0)
    assert late.owners_to_see == PLACES - 64 + 1
    other = make_batch(900, "b")
    assert late.choose([], [*waiting[64:], other]) == [other]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=400))
def test_nobody_has_twice_what_an_owner_who_waits_has(owners: list[str]) -> None:
    waiting = [make_batch(number, owner) for number, owner in enumerate(owners)]
    taken = Choice([], PLACES, NOW_MS, 0.0).choose([], waiting)
    held, wanted = Counter(batch.owner for batch in taken), Counter(owners)
    assert len({batch.id for batch in taken}) == len(taken) <= PLACES
    for owner, count in wanted.items():
        assert held[owner] == count or held[owner] >= PLACES // (2 * len(wanted)) - 1


def test_beside_others_an_owner_of_whom_enough_is_here_gets_no_more() -> None:
    waiting = [make_batch(number, "ab"[number % 2], lines=100) for number in range(20)]
    taken = Choice([], PLACES, NOW_MS, 0.0, stock=Stock({"a": 150}, 200)).choose([], waiting)
    assert Counter(batch.owner for batch in taken) == {"a": 1, "b": 2}
    # Owners who have enough must not hide the others.
    full = Choice(taken, PLACES - 3, NOW_MS, 0.0, stock=Stock({"a": 250, "b": 200}, 200))
    assert full.owners_to_see == 8 + 2
    assert full.choose([], waiting[4:]) == []


def test_what_is_pressed_for_time_is_taken_however_much_is_here() -> None:
    pressed = make_batch(0, "a", left_ms=HOUR_MS)
    choice = Choice([], PLACES, NOW_MS, 0.0, stock=Stock({"a": 1000}, 200))
    assert choice.choose([pressed], [make_batch(1, "a"), pressed]) == [pressed]


def test_what_is_pressed_is_left_to_others_where_enough_is_here_that_goes_before_it() -> None:
    pressed = [make_batch(number, "b", left_ms=HOUR_MS + number, lines=100) for number in range(3)]
    sooner, later = NOW_MS + HOUR_MS - 1, NOW_MS + 2 * HOUR_MS

    def choose(*due: tuple[int, int]) -> list[Batch]:
        return Choice([], PLACES, NOW_MS, 0.0, stock=Stock({"a": 200}, 200, due)).choose(pressed, [])

    assert choose((sooner, 200)) == []
    assert choose((later, 200)) == pressed[:2]
    assert choose((sooner, 100), (later, 100)) == pressed[:1]


def test_what_is_in_danger_elsewhere_is_taken_before_what_is_next_in_the_round() -> None:
    waiting, urgent, hopeless = make_batch(0, "a"), make_batch(1, "b"), make_batch(2, "b")
    lines = Urgency.name_lines(urgent.endpoint, "")
    due = {lines: (0, urgent.deadline_at_ms)}
    stock = Stock({}, 200, (), Urgency(due=due, given_up=frozenset({hopeless.id})))
    choice = Choice([], 1, NOW_MS, 0.0, stock=stock)
    assert choice.not_due == (hopeless.id,)
    assert choice.choose([urgent], [waiting]) == [urgent]
    choice = Choice([], 1, NOW_MS, 0.0, stock=stock)
    assert choice.choose([hopeless], [waiting]) == [waiting]


def test_a_look_for_others_is_small_where_enough_is_here() -> None:
    supplied, hungry = (Choice([], PLACES, NOW_MS, 0.0, stock=Stock({"a": lines}, 200)) for lines in (200, 199))
    assert (supplied.most, hungry.most) == (8, PLACES)
    held = [make_batch(number, "a") for number in range(5)]
    # Those that are open here are found too, as long as slices of theirs are free.
    assert Choice(held, PLACES - 5, NOW_MS, 0.0, stock=Stock({"a": 200}, 200)).due_to_see == 8 + 5


def test_who_is_pressed_for_time_gets_every_second_place() -> None:
    relaxed = [make_batch(number, "relaxed") for number in range(10)]
    pressed = [make_batch(100 + number, "pressed", left_ms=HOUR_MS) for number in range(10)]
    taken = Choice([], 4, NOW_MS, 0.0).choose([*pressed, *relaxed], relaxed)
    assert Counter(batch.owner for batch in taken) == {"relaxed": 2, "pressed": 2}
    for deadlines_first, owner in ((True, "pressed"), (False, "relaxed")):
        (batch,) = Choice([], 1, NOW_MS, 0.0).choose(pressed, relaxed, deadlines_first=deadlines_first)
        assert batch.owner == owner


@pytest.mark.parametrize(("lines_per_s", "is_pressed"), [(0.0, False), (1.0, False), (0.5, True)])
def test_a_large_batch_is_pressed_as_soon_as_its_lines_need_half_of_the_time(
    lines_per_s: float, *, is_pressed: bool
) -> None:
    large = make_batch(1, "a", left_ms=20 * HOUR_MS, lines=20_000)
    waiting = make_batch(2, "b")
    taken = Choice([], 1, NOW_MS, lines_per_s).choose([large], [waiting])
    assert taken == [large if is_pressed else waiting]


@pytest.fixture
async def metadata(rows: RowsPlace) -> AsyncIterator[Metadata]:
    metadata = await Metadata.open(rows.make_driver())
    yield metadata
    await metadata.close()


async def test_owners_take_turns_over_many_looks_whoever_has_how_many_waiting(metadata: Metadata) -> None:
    for number in range(30):
        await metadata.add_batch(make_batch(number, "many", left_ms=19 * HOUR_MS))
    for number, owner in enumerate(["few", "few", "one"]):
        await metadata.add_batch(make_batch(100 + number, owner))
    turns = Turns(metadata, LimitsConfig(), lambda: NOW_MS)
    order = []
    for _ in range(8):
        (turn,) = await turns.take(1)
        order.append(turn.batch.owner)
        await turns.give_back(turn, drained=True)
    assert order == ["few", "many", "one", "few", "many", "many", "many", "many"]
