"""What holds for every plan, whatever the lines share and whatever became of them so far."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from backfill.batch import Outcome
from backfill.index import PREFIX_LEVELS, IndexBuilder, LineFacts, LineIndex
from backfill.plan import plan_lines
from backfill.plan.few_lines import plan_few
from backfill.plan.many_lines import plan_many


class Line(NamedTuple):
    parts: tuple[int, ...]
    answer_tokens: int
    digest: int
    length: int
    model: str
    outcome: int


LINES = st.lists(
    st.builds(
        Line,
        st.lists(st.integers(0, 2), max_size=PREFIX_LEVELS).map(tuple),
        st.integers(0, 5),
        st.integers(0, 3),
        st.integers(50, 51),
        st.sampled_from(["m", "n"]),
        st.sampled_from([0, 0, 0, *Outcome]),
    ),
    max_size=30,
)


def chain(parts: tuple[int, ...]) -> list[int]:
    """A hash of each beginning: the number that its parts make in base 4, which no other beginning has."""
    return list(itertools.accumulate(parts, lambda before, part: before * 4 + part + 1, initial=0))[1:]


def build(lines: list[Line]) -> tuple[LineIndex, bytes]:
    builder = IndexBuilder()
    for number, line in enumerate(lines):
        hashes = chain(line.parts)
        row = (*hashes, *[0] * (PREFIX_LEVELS - len(hashes)))
        builder.add(
            100 * number, LineFacts(10, line.length, line.model, 20, line.answer_tokens, row, line.digest, 7), b'""'
        )
    return builder.build(), bytes(line.outcome for line in lines)


def hashes_of(index: LineIndex, line: int) -> list[int]:
    return list(index.prefix_hashes[line * PREFIX_LEVELS : (line + 1) * PREFIX_LEVELS])


@given(LINES, st.booleans())
def test_every_line_that_is_left_is_offered_once_or_is_one_twin(lines: list[Line], reuse: bool) -> None:
    index, outcomes = build(lines)
    plan = plan_lines(index, outcomes, reuse=reuse)
    offered = [line for groups in plan.groups.values() for group in groups for line in group.lines]
    twins = [line for others in plan.twins.values() for line in others]
    assert sorted(offered + twins) == [number for number, line in enumerate(lines) if not line.outcome]
    assert reuse or not twins
    for model, groups in plan.groups.items():
        assert all(index.models[line] == model for group in groups for line in group.lines)
    assert plan == plan_lines(index, outcomes, reuse=reuse)


@given(LINES)
def test_twins_are_alike_and_led_by_one_that_did_not_fail(lines: list[Line]) -> None:
    index, outcomes = build(lines)
    plan = plan_lines(index, outcomes, reuse=True)
    offered = {line for groups in plan.groups.values() for group in groups for line in group.lines}
    for leader, twins in plan.twins.items():
        first = lines[leader]
        assert twins
        assert first.digest != 0
        assert leader in offered if first.outcome == 0 else first.outcome == Outcome.ANSWERED
        for twin in twins:
            other = lines[twin]
            assert (other.digest, other.length, other.model) == (first.digest, first.length, first.model)
    asked = [lines[line][2:5] for line in offered if lines[line].digest]
    assert len(asked) == len(set(asked))


@given(LINES)
def test_lines_stand_with_those_that_share_most_and_long_answers_go_first(lines: list[Line]) -> None:
    index, outcomes = build(lines)
    for groups in plan_lines(index, outcomes, reuse=False).groups.values():
        left = [line for group in groups for line in group.lines]
        for group in groups:
            assert list(group.lines) == sorted(group.lines, key=lambda line: (-index.answer_tokens[line], line))
            for line in group.lines:
                own = hashes_of(index, line)
                sharers = [
                    {other for other in left if hashes_of(index, other)[level] == own[level]} for level in range(8)
                ]
                shared = [level for level in range(8) if own[level] and len(sharers[level]) >= 2]
                named = [level for level in shared if level + 1 not in shared or sharers[level] != sharers[level + 1]]
                assert group.prefix == tuple(own[level] for level in named)
        for one, other in itertools.pairwise(groups):
            assert one.prefix != other.prefix
        walk_siblings(index, [(group.prefix, group.lines) for group in groups])


def walk_siblings(index: LineIndex, groups: list[tuple[tuple[int, ...], Sequence[int]]]) -> None:
    """Each beginning's groups are neighbours, and stand among their siblings by their longest answer."""
    siblings = [
        (first, [(prefix[1:], lines) for prefix, lines in members])
        for first, members in itertools.groupby(groups, key=lambda group: group[0][:1])
    ]
    assert len({first for first, _ in siblings}) == len(siblings)
    keys = []
    for first, members in siblings:
        below = [line for _, lines in members for line in lines]
        keys.append((-max(index.answer_tokens[line] for line in below), min(below)))
        if first:
            walk_siblings(index, members)
        else:
            assert len(members) == 1
    assert keys == sorted(keys)


@given(LINES, st.data())
def test_a_plan_after_some_outcomes_has_exactly_the_rest(lines: list[Line], data: st.DataObject) -> None:
    index, outcomes = build(lines)
    before = plan_lines(index, outcomes, reuse=True)
    offered = [line for groups in before.groups.values() for group in groups for line in group.lines]
    finished = data.draw(st.sets(st.sampled_from(offered)) if offered else st.just(set[int]()))
    later = bytearray(outcomes)
    for line in finished:
        later[line] = data.draw(st.sampled_from(list(Outcome)))
    after = plan_lines(index, later, reuse=True)
    offered = [line for groups in after.groups.values() for group in groups for line in group.lines]
    twins = [line for others in after.twins.values() for line in others]
    assert sorted(offered + twins) == [line for line, outcome in enumerate(later) if not outcome]


@given(LINES, st.booleans())
def test_few_lines_are_planned_as_many_are(lines: list[Line], reuse: bool) -> None:
    index, outcomes = build(lines)
    assert plan_few(index, outcomes, reuse=reuse) == plan_many(index, outcomes, reuse=reuse)
