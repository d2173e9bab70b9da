"""How a large batch is cut: whatever its lines are, each is in one slice, and every process finds the same."""

import hashlib
import random
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from backfill.index import LineIndex
from backfill.plan import count_slices, cut_lines, plan_lines
from backfill.plan.cut import SLICES_MAX
from tests.property.test_plan import LINES, Line, build


def make_lines(count: int, *, models: str = "m", prefixes: int = 7, digests: int = 0) -> LineIndex:
    dice = random.Random(count)
    lines = [
        Line(
            (dice.randrange(prefixes), dice.randrange(2)),
            dice.randrange(6),
            1 + dice.randrange(digests) if digests else 0,
            50,
            dice.choice(models),
            0,
        )
        for _ in range(count)
    ]
    return build(lines)[0]


@given(LINES, st.integers(1, 40))
def test_each_line_is_in_one_slice_and_twins_are_in_the_same(lines: list[Line], slices: int) -> None:
    index, _ = build(lines)
    cut = cut_lines(index, slices)
    assert len(cut) == slices
    assert sorted(line for those in cut for line in those) == list(range(len(lines)))
    assert all(list(those) == sorted(those) for those in cut)
    slice_of = {line: number for number, those in enumerate(cut) for line in those}
    for leader, twins in plan_lines(index, bytes(len(lines)), reuse=True).twins.items():
        assert {slice_of[twin] for twin in twins} == {slice_of[leader]}
    assert cut_lines(index, slices) == cut


@given(st.integers(0, 10**9), st.integers(1, 5000))
def test_only_large_batches_are_cut_and_into_so_many_at_most(lines: int, lines_per_turn: int) -> None:
    count = count_slices(lines, lines_per_turn)
    assert (count == 0) == (lines <= lines_per_turn)
    assert count != 1
    assert count <= SLICES_MAX


def test_slices_are_alike_and_the_last_ones_are_small() -> None:
    index = make_lines(20_000, prefixes=4000)
    count = count_slices(20_000, 1000)
    sizes = [len(lines) for lines in cut_lines(index, count)]
    assert all(800 <= size <= 1200 for size in sizes[:-8])
    assert all(150 <= size <= 350 for size in sizes[-8:])


def test_lines_that_begin_alike_stay_together_where_they_are_few() -> None:
    index = make_lines(4000, prefixes=300)
    cut = cut_lines(index, count_slices(4000, 500))
    slice_of = {line: number for number, those in enumerate(cut) for line in those}
    for groups in plan_lines(index, bytes(4000), reuse=True).groups.values():
        for group in groups:
            assert len({slice_of[line] for line in group.lines}) == 1


def test_a_group_that_is_too_large_for_a_slice_is_cut() -> None:
    index = make_lines(3000, prefixes=1)
    sizes = [len(lines) for lines in cut_lines(index, count_slices(3000, 300))]
    assert max(sizes) < 450


def test_every_slice_has_its_part_of_each_model() -> None:
    index = make_lines(6000, models="mmmno")
    shares = [[index.models[line] for line in lines] for lines in cut_lines(index, 10)]
    for model in range(3):
        whole = sum(each.count(model) for each in shares) / 6000
        assert all(abs(each.count(model) / len(each) - whole) < 0.2 for each in shares)


def test_models_of_few_lines_do_not_all_come_last() -> None:
    index, _ = build([Line((), 1, 0, 50, f"m{number}", 0) for number in range(500)])
    sizes = [len(lines) for lines in cut_lines(index, count_slices(500, 50))]
    assert max(sizes[-8:]) < 30


def digest() -> str:
    index = make_lines(5000, models="mmn", prefixes=60, digests=3000)
    cut = cut_lines(index, 23)
    return hashlib.sha256(b"|".join(lines.tobytes() for lines in cut)).hexdigest()


def test_the_cut_is_the_same_in_another_process_and_in_every_version() -> None:
    """What a slice holds is written down nowhere: a batch that is under way must be cut alike after an upgrade."""
    assert digest() == "7fde701957e009b02561bf0dd6f1f5eaddcb882ca49ac8303584f0cebeb512b3"
    code = "from tests.property.test_cut import digest; print(digest())"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == digest()
