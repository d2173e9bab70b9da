"""Whether a batch did what it promises: every line once, in input order, and no finished line run again. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

__all__ = ["Redone", "count_redone", "find_violations", "read_custom_ids"]

_SHOWN = 3


class Redone(NamedTuple):
    """Lines that an engine received more than once."""

    finished: int
    """Those that had their record on disk when the server was killed, and were sent again: a broken promise."""
    in_flight: int
    """All that were received twice or more."""


class _ResultLine(msgspec.Struct):
    custom_id: str


_decode_result_line = msgspec.json.Decoder(_ResultLine).decode


def read_custom_ids(content: bytes) -> list[str]:
    """The custom ids of an output or error file, in the order of its lines."""
    return [_decode_result_line(line).custom_id for line in content.splitlines()]


def find_violations(expected: Sequence[str], output: Sequence[str], error: Sequence[str]) -> list[str]:
    """What is wrong with the results, in words; empty if each expected id is in one of the files once, in order."""
    counts = Counter(output) + Counter(error)
    place = {custom_id: position for position, custom_id in enumerate(expected)}
    found = [
        _describe("missing from both files", [one for one in expected if not counts[one]]),
        _describe("there more than once", [one for one, times in counts.items() if times > 1]),
        _describe("in no line of the input", [one for one in counts if one not in place]),
    ]
    for name, custom_ids in (("output", output), ("error", error)):
        places = [place[one] for one in custom_ids if one in place]
        late = [expected[after] for before, after in pairwise(places) if after < before]
        found.append(_describe(f"out of input order in the {name} file", late))
    return [violation for violation in found if violation]


def count_redone(before: Iterable[str], after: Iterable[str], finished: Collection[str]) -> Redone:
    """What was run again.

    Takes the markers that the engine received before the kill and after it, and those of which the journal held a
    record between the two.
    """
    after = list(after)
    again = len({marker for marker in after if marker in finished})
    times = Counter(before) + Counter(after)
    return Redone(again, sum(1 for count in times.values() if count > 1))


def _describe(what: str, custom_ids: Sequence[str]) -> str:
    if not custom_ids:
        return ""
    return f"{len(custom_ids)} ids are {what}, such as {', '.join(sorted(custom_ids)[:_SHOWN])}"
