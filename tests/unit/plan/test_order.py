"""In which order lines are offered, and which of them wait for the answer of another."""

import random

from backfill.batch import Outcome
from backfill.index import PREFIX_LEVELS, IndexBuilder, LineFacts, LineIndex
from backfill.plan import LineGroup, Plan, plan_lines

Row = tuple[tuple[int, ...], int]


def build(rows: list[Row], *, digests: dict[int, int] | None = None, models: dict[int, str] | None = None) -> LineIndex:
    """An index of lines given by the hashes of their beginnings and the answer they expect."""
    builder = IndexBuilder()
    for line, (hashes, answer_tokens) in enumerate(rows):
        row = (*hashes, *[0] * (PREFIX_LEVELS - len(hashes)))
        model, digest = (models or {}).get(line, "m"), (digests or {}).get(line, 0)
        builder.add(100 * line, LineFacts(10, 50, model, 20, answer_tokens, row, digest, 7), b'"%d"' % line)
    return builder.build()


def plan(index: LineIndex, *outcomes: int, reuse: bool = True) -> Plan:
    return plan_lines(index, bytes(outcomes).ljust(len(index), b"\0"), reuse=reuse)


def listed(groups: list[LineGroup]) -> list[tuple[tuple[int, ...], list[int]]]:
    return [(group.prefix, list(group.lines)) for group in groups]


def test_shuffled_lines_of_four_prefixes_come_in_four_groups() -> None:
    prefixes = [line % 4 + 1 for line in range(400)]
    random.Random(1).shuffle(prefixes)
    groups = plan(build([((prefix, 10 + prefix), 256) for prefix in prefixes])).groups[0]
    assert sorted(group.prefix for group in groups) == [(11,), (12,), (13,), (14,)]
    for group in groups:
        assert list(group.lines) == [line for line, prefix in enumerate(prefixes) if 10 + prefix == group.prefix[0]]


def test_nested_prefixes_stay_together_and_the_longest_answers_go_first() -> None:
    rows: list[Row] = [
        ((1, 2), 10),
        ((1, 3), 90),
        ((7,), 50),
        ((1, 2), 20),
        ((1, 3), 30),
        ((1,), 40),
        ((8,), 95),
        ((1, 9), 70),
        ((), 60),
    ]
    assert listed(plan(build(rows)).groups[0]) == [
        ((), [6, 8, 2]),
        ((1, 3), [1, 4]),
        ((1,), [7, 5]),
        ((1, 2), [3, 0]),
    ]


def test_of_beginnings_that_the_same_lines_share_only_the_longest_is_named() -> None:
    rows: list[Row] = [((1, 2, 3), 1), ((1, 2, 3), 1), ((1, 2, 4, 5), 1), ((1, 2, 4, 5), 1), ((1, 2, 4, 6), 1)]
    assert listed(plan(build(rows)).groups[0]) == [((2, 3), [0, 1]), ((2, 4, 5), [2, 3]), ((2, 4), [4])]


def test_each_model_has_an_order_of_its_own_and_shares_with_no_other() -> None:
    groups = plan(build([((1,), 1), ((1,), 1), ((1,), 1)], models={1: "other"})).groups
    assert {model: listed(found) for model, found in groups.items()} == {0: [((1,), [0, 2])], 1: [((), [1])]}


def test_what_has_an_outcome_is_neither_offered_nor_shared_with() -> None:
    index = build([((1,), 1), ((1,), 1), ((2,), 1), ((2,), 1)])
    assert listed(plan(index, Outcome.ANSWERED, 0, Outcome.REFUSED, Outcome.EXHAUSTED).groups[0]) == [((), [1])]


def test_the_first_of_identical_lines_runs_for_the_others() -> None:
    found = plan(build([((), 1)] * 5, digests={1: 7, 2: 8, 3: 7, 4: 7}))
    assert found.twins == {1: [3, 4]}
    assert listed(found.groups[0]) == [((), [0, 1, 2])]


def test_a_line_answered_before_a_crash_leads_its_twins_and_one_that_failed_does_not() -> None:
    index = build([((), 1)] * 4, digests=dict.fromkeys(range(4), 7))
    answered = plan(index, 0, Outcome.REFUSED, Outcome.ANSWERED)
    assert (answered.twins, answered.groups) == ({2: [0, 3]}, {})
    failed = plan(index, Outcome.EXHAUSTED, Outcome.REFUSED)
    assert (failed.twins, listed(failed.groups[0])) == ({2: [3]}, [((), [2])])


def test_lines_of_another_model_are_no_twins() -> None:
    assert plan(build([((), 1)] * 2, digests={0: 7, 1: 7}, models={1: "other"})).twins == {}


def test_without_reuse_every_line_runs() -> None:
    found = plan(build([((), 1)] * 3, digests=dict.fromkeys(range(3), 7)), reuse=False)
    assert (found.twins, listed(found.groups[0])) == ({}, [((), [0, 1, 2])])


def test_a_file_without_lines_has_an_empty_plan() -> None:
    assert plan(build([])) == Plan({}, {})
