"""The order of lines along the tree of the beginnings that their prompts share.

A node of the tree is a beginning that at least two lines share, at one of the index's levels. Lines are offered in a
depth-first walk, so that those that share more stand nearer together and an engine's prefix cache holds what they
share for as short a time as can be (theorem 3.1 of SGLang, https://arxiv.org/abs/2312.07104). Among siblings the
longest expected answer goes first, so that no long answer is left for the end, when nothing else keeps an engine busy.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["walk"]

_U32 = NDArray[np.uint32]
_Counts = NDArray[np.intp]
_Flags = NDArray[np.bool_]


def walk(lines: _U32, answer_tokens: _U32, hashes: _U32) -> Iterator[tuple[tuple[int, ...], int, _U32]]:
    """Give the chain of hashes that a run of lines shares, the shortest beginning first, its depth, and the lines.

    Row i of all three is one line: its number, the answer it expects and the hashes of its beginnings, one a level.
    Lines that share nothing are one run with an empty chain; lines of an inner node that go no deeper are one run too.
    """
    by_hash = np.lexsort(hashes.T[::-1])
    lines, answer_tokens, hashes = lines[by_hash], answer_tokens[by_hash], hashes[by_hash]
    starts, sizes = _find_nodes(hashes)
    is_shared = np.logical_and.accumulate((hashes != 0) & (sizes >= 2), axis=1)
    depths = is_shared.sum(axis=1)
    runs = _number_runs(starts, depths)
    order = _sort(lines, answer_tokens, starts, depths, runs)
    is_named = _keep_longest(is_shared, sizes)
    ordered_runs = runs[order]
    edges = np.flatnonzero(np.diff(ordered_runs, prepend=-1, append=-1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        row = order[start]
        yield tuple(hashes[row, is_named[row]].tolist()), int(depths[row]), lines[order[start:end]]


def _find_nodes(hashes: _U32) -> tuple[_Counts, _Counts]:
    """For each line and level: the first row of those that are the same up to there, and how many they are.

    Rows are sorted, so these are neighbours. All levels up to there count: one hash alone may be the same by chance.
    """
    count, levels = hashes.shape
    is_first = np.ones((count, levels), dtype=np.bool_)
    is_first[1:] = np.logical_or.accumulate(hashes[1:] != hashes[:-1], axis=1)
    starts = np.empty((count, levels), dtype=np.intp)
    sizes = np.empty((count, levels), dtype=np.intp)
    for level in range(levels):
        firsts = np.flatnonzero(is_first[:, level])
        lengths = np.diff(firsts, append=count)
        starts[:, level] = np.repeat(firsts, lengths)
        sizes[:, level] = np.repeat(lengths, lengths)
    return starts, sizes


def _number_runs(starts: _Counts, depths: _Counts) -> _Counts:
    """One number for the lines that end at the same node of the tree; it is no number of a row."""
    count = len(starts)
    # Depth and first row together: a node and its first child begin at the same row.
    deepest = np.where(depths == 0, 0, starts[np.arange(count), depths - 1])
    numbers: _Counts = count * (1 + depths) + deepest
    return numbers


def _sort(lines: _U32, answer_tokens: _U32, starts: _Counts, depths: _Counts, runs: _Counts) -> _Counts:
    """Rows in the order of the walk.

    Below each node stand subtrees and the run of lines that end there. Each has one key: its longest answer,
    descending, and its smallest line, which no sibling has as well.
    """
    keys = [_make_key(answer_tokens, lines)]
    numbers = int(runs.max(initial=0)) + 1
    for level in range(int(depths.max(initial=0))):
        siblings = np.where(depths > level, starts[:, level], runs)
        longest = np.zeros(numbers, dtype=np.uint32)
        np.maximum.at(longest, siblings, answer_tokens)
        first_lines = np.full(numbers, np.iinfo(np.uint32).max, dtype=np.uint32)
        np.minimum.at(first_lines, siblings, lines)
        keys.insert(1, _make_key(longest[siblings], first_lines[siblings]))
    return np.lexsort(keys)


def _make_key(answer_tokens: _U32, lines: _U32) -> NDArray[np.uint64]:
    """Sorts by answer, descending, then by line: both in one number, since a sort by one is faster than by two."""
    return ((~answer_tokens).astype(np.uint64) << np.uint64(32)) | lines


def _keep_longest(is_shared: _Flags, sizes: _Counts) -> _Flags:
    """Of levels that the very same lines share, only the longest: the others say nothing more."""
    is_same_below = np.zeros_like(is_shared)
    is_same_below[:, :-1] = is_shared[:, 1:] & (sizes[:, 1:] == sizes[:, :-1])
    return is_shared & ~is_same_below
