"""The plan of any number of lines, by columns: what `few_lines` plans one by one comes out the same here."""

from array import array

import numpy as np
from numpy.typing import NDArray

from backfill.batch import Outcome
from backfill.index import PREFIX_LEVELS, PREFIX_MARKS, LineIndex
from backfill.plan.groups import LineGroup, Plan
from backfill.plan.many_lines_walk import walk

__all__ = ["plan_many"]


def plan_many(index: LineIndex, outcomes: bytes | bytearray, *, reuse: bool) -> Plan:
    """As `plan_lines`."""
    done: NDArray[np.uint8] = np.asarray(memoryview(outcomes))
    is_left = done == 0
    twins = _find_twins(index, done) if reuse else {}
    for others in twins.values():
        is_left[others] = False
    models = np.asarray(index.models)
    answer_tokens = np.asarray(index.answer_tokens)
    hashes = np.asarray(index.prefix_hashes).reshape(-1, PREFIX_LEVELS)
    groups: dict[int, list[LineGroup]] = {}
    for model in np.unique(models[is_left]).tolist():
        lines = np.flatnonzero(is_left & (models == model)).astype(np.uint32)
        runs = walk(lines, answer_tokens[lines], hashes[lines])
        groups[model] = [
            LineGroup(prefix, array("I", run.tobytes()), _length(depth), int(answer_tokens[run].sum()))
            for prefix, depth, run in runs
        ]
    return Plan(groups, twins)


def _length(depth: int) -> int:
    return PREFIX_MARKS[depth - 1] if depth else 0


def _find_twins(index: LineIndex, done: NDArray[np.uint8]) -> dict[int, list[int]]:
    """Leader -> the lines that can take its answer: leads who is answered already, else the first of them.

    A line that failed leads none: what its engine said need not hold for the others.
    """
    digests = np.asarray(index.body_digests)
    lengths = np.asarray(index.body_lengths)
    models = np.asarray(index.models)
    lines = np.flatnonzero((digests != 0) & ((done == 0) | (done == Outcome.ANSWERED)))
    keys = (models[lines], lengths[lines], digests[lines])
    order = np.lexsort((lines, done[lines] == 0, *keys))
    lines = lines[order]
    is_leader = np.ones(len(lines), dtype=np.bool_)
    is_leader[1:] = np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])
    leaders = lines[is_leader][np.cumsum(is_leader) - 1]
    is_twin = ~is_leader & (done[lines] == 0)
    twins: dict[int, list[int]] = {}
    for leader, twin in zip(leaders[is_twin].tolist(), lines[is_twin].tolist(), strict=True):
        twins.setdefault(leader, []).append(twin)
    return twins
