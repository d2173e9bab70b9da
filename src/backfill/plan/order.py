"""(index - finished lines) -> the order in which lines are offered to engines. Pure, recomputed after every restart."""

from collections.abc import Callable

from backfill.index import LineIndex
from backfill.plan.few_lines import plan_few
from backfill.plan.groups import Plan

__all__ = ["plan_lines", "prepare"]

# One by one, these take half a millisecond; to load numpy takes a hundred times as long.
_FEW_LINES = 128


def plan_lines(index: LineIndex, outcomes: bytes | bytearray, *, reuse: bool) -> Plan:
    """The lines without an outcome, for each model; `reuse` allows that identical deterministic ones run once.

    `outcomes` has one byte a line: its `batch.Outcome`, 0 for none. The same arguments give the same plan.
    """
    if len(index) <= _FEW_LINES:
        return plan_few(index, outcomes, reuse=reuse)
    return _load()(index, outcomes, reuse=reuse)


def prepare() -> None:
    """Load what many lines need, for a moment in which nobody waits for it; takes a tenth of a second."""
    _load()


def _load() -> Callable[..., Plan]:
    from backfill.plan.many_lines import plan_many  # noqa: PLC0415 - loads numpy, for which no start has to wait

    return plan_many
