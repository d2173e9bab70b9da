"""How a large batch is cut into slices, so that several processes can work on it. Pure, from its index alone.

A slice has of each model a run of the order in which all its lines would be sent, twins beside the line that is sent
for them: so the engines of all models have work whichever slices a process has. Lines that begin alike are sent by one
process as far as can be: a cut is moved to where a group of them ends if one ends near enough, and goes through a group
only if that is too large.

Every process cuts alike, whatever its settings, and so must every version as long as batches run that an older one has
admitted: what a slice holds is written down nowhere.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from backfill.index import LineIndex
from backfill.plan.groups import LineGroup, Plan
from backfill.plan.order import plan_lines

__all__ = ["SLICES_MAX", "count_slices", "cut_lines"]

SLICES_MAX = 256
"""So many slices a batch has at most; those of a larger one are larger."""
# The last slices are small: whoever is through with his last one has not long to wait for the others with theirs.
_SMALL_SLICES = 8
_SMALL_SHARE = 4
# A model with so many lines a slice is cut for itself; of others the lines lie where the order has them.
_LINES_A_SLICE = 4
_MORE_SLICES = _SMALL_SLICES - _SMALL_SLICES // _SMALL_SHARE


def count_slices(lines: int, lines_per_turn: int) -> int:
    """How many slices a batch of so many lines is cut into, of about `lines_per_turn` each; 0: it is not cut."""
    if lines <= lines_per_turn:
        return 0
    return min(-(-lines // lines_per_turn) + _MORE_SLICES, SLICES_MAX)


def cut_lines(index: LineIndex, slices: int) -> list["array[int]"]:
    """The lines of each of so many slices, ascending; each line is in one of them. A slice may be empty."""
    # Lines that ask for the very same stay together, whether or not the settings let one be sent for all.
    plan = plan_lines(index, bytes(len(index)), reuse=True)
    found: list[list[int]] = [[] for _ in range(slices)]
    for groups in _part_models(plan, _LINES_A_SLICE * slices):
        for lines, more in zip(found, _cut_groups(groups, plan.twins, slices), strict=True):
            lines.extend(more)
    return [array("I", sorted(lines)) for lines in found]


def _part_models(plan: Plan, lines_of_its_own: int) -> Iterator[list[LineGroup]]:
    """The groups of each model with so many lines, and those of all others together, as far as there are any."""
    others: list[LineGroup] = []
    for groups in plan.groups.values():
        if sum(len(group.lines) for group in groups) >= lines_of_its_own:
            yield groups
        else:
            others += groups
    if others:
        yield others


def _cut_groups(groups: Sequence[LineGroup], twins: Mapping[int, Sequence[int]], slices: int) -> list[list[int]]:
    """The lines of these groups that each slice has."""
    # What cannot be cut: a line and its twins.
    runs = [(line, *twins.get(line, ())) for group in groups for line in group.lines]
    ends = [*accumulate(map(len, runs))]
    last_runs = accumulate(len(group.lines) for group in groups)
    # Lines that share nothing may be cut anywhere.
    is_shared = any(group.prefix for group in groups)
    group_ends = [ends[last - 1] for last in last_runs] if is_shared else ends
    cuts = _choose_cuts(ends, group_ends, slices)
    places = [bisect_left(ends, cut) + 1 if cut else 0 for cut in cuts]
    edges = pairwise([0, *places, len(runs)])
    return [[line for run in runs[first:last] for line in run] for first, last in edges]


def _choose_cuts(ends: Sequence[int], group_ends: Sequence[int], slices: int) -> list[int]:
    """How many lines lie before each cut, ascending: where a group ends that does so near enough, or any run."""
    total = ends[-1] if ends else 0
    sizes = [1 if slices - number <= _SMALL_SLICES else _SMALL_SHARE for number in range(slices)]
    parts = [*accumulate(sizes)]
    wanted = [total * part // parts[-1] for part in parts]
    cuts: list[int] = []
    for number, at in enumerate(wanted[:-1]):
        # Less than half of the smaller neighbour, so that no cut comes before the one before it.
        reach = (min(at - (wanted[number - 1] if number else 0), wanted[number + 1] - at) - 1) // 2
        cut = _find_nearest(group_ends, at)
        if abs(cut - at) > reach:
            cut = _find_nearest(ends, at)
        cuts.append(max(cut, cuts[-1] if cuts else 0))
    return cuts


def _find_nearest(ends: Sequence[int], at: int) -> int:
    """The one of these numbers, which ascend, that is nearest; of two the smaller one. 0 if there is none."""
    place = bisect_left(ends, at)
    near = [*ends[max(0, place - 1) : place + 1]]
    return min(near, key=lambda end: abs(end - at), default=0)
