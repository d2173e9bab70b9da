"""The plan of a few lines, one by one: the same as `many_lines` makes by columns, without loading numpy for it."""

from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from backfill.batch import Outcome
from backfill.index import PREFIX_LEVELS, PREFIX_MARKS, LineIndex
from backfill.plan.groups import LineGroup, Plan

__all__ = ["plan_few"]

_Node = tuple[int, ...]
"""The hashes of all beginnings down to a node of the tree (`many_lines_walk`): one alone may be the same by chance."""
_Key = tuple[int, int]
"""Sorts by the longest answer, descending, then by the smallest line."""


class _Line(NamedTuple):
    number: int
    answer_tokens: int
    hashes: _Node
    depth: int
    """How many of these beginnings others share."""

    @property
    def key(self) -> _Key:
        return -self.answer_tokens, self.number

    @property
    def run(self) -> _Node:
        """The node at which the line ends."""
        return self.hashes[: self.depth]


def plan_few(index: LineIndex, outcomes: bytes | bytearray, *, reuse: bool) -> Plan:
    """As `plan_lines`."""
    twins = _find_twins(index, outcomes) if reuse else {}
    passed = {twin for others in twins.values() for twin in others}
    lines_of: dict[int, list[int]] = {}
    for line, outcome in enumerate(outcomes):
        if not outcome and line not in passed:
            lines_of.setdefault(index.models[line], []).append(line)
    return Plan({model: list(_walk(index, lines_of[model])) for model in sorted(lines_of)}, twins)


def _find_twins(index: LineIndex, outcomes: bytes | bytearray) -> dict[int, list[int]]:
    alike: dict[tuple[int, int, int], list[int]] = {}
    for line, digest in enumerate(index.body_digests):
        if digest and outcomes[line] in (0, Outcome.ANSWERED):
            alike.setdefault((digest, index.body_lengths[line], index.models[line]), []).append(line)
    twins = {}
    for lines in alike.values():
        # Leads who is answered already, else the first of them.
        leader = min(lines, key=lambda line: (not outcomes[line], line))
        others = [line for line in lines if line != leader and not outcomes[line]]
        if others:
            twins[leader] = others
    return twins


def _walk(index: LineIndex, numbers: list[int]) -> Iterator[LineGroup]:
    hashes = index.prefix_hashes
    chains = {line: tuple(hashes[line * PREFIX_LEVELS : (line + 1) * PREFIX_LEVELS]) for line in numbers}
    sizes = Counter(chain[:level] for chain in chains.values() for level in range(1, PREFIX_LEVELS + 1))
    lines = [
        _Line(line, index.answer_tokens[line], chain, _count_shared(chain, sizes)) for line, chain in chains.items()
    ]
    for run, ended in groupby(_sort(lines), key=lambda line: line.run):
        those = list(ended)
        named = tuple(
            run[level]
            for level in range(len(run))
            # Of beginnings that the very same lines share, only the longest: the others say nothing more.
            if level + 1 == len(run) or sizes[run[: level + 1]] != sizes[run[: level + 2]]
        )
        prefix_bytes = PREFIX_MARKS[len(run) - 1] if run else 0
        answer_tokens = sum(line.answer_tokens for line in those)
        yield LineGroup(named, array("I", [line.number for line in those]), prefix_bytes, answer_tokens)


def _count_shared(chain: _Node, sizes: Counter[_Node]) -> int:
    depth = 0
    while depth < PREFIX_LEVELS and chain[depth] and sizes[chain[: depth + 1]] >= 2:
        depth += 1
    return depth


def _sort(lines: list[_Line]) -> list[_Line]:
    """In the order of the walk: below each node stand subtrees and the run of lines that end there."""
    deepest = max(line.depth for line in lines)
    keys: dict[tuple[_Node, bool], _Key] = {}
    for line in lines:
        for branch in _branches(line, deepest):
            longest, first_line = keys.get(branch, line.key)
            keys[branch] = min(longest, -line.answer_tokens), min(first_line, line.number)
    return sorted(lines, key=lambda line: [*(keys[branch] for branch in _branches(line, deepest)), line.key])


def _branches(line: _Line, deepest: int) -> Iterator[tuple[_Node, bool]]:
    """At each level the subtree in which the line lies, or its run if it has ended above."""
    for level in range(deepest):
        yield (line.hashes[: level + 1], False) if level < line.depth else (line.run, True)
