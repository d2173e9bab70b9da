"""What the lines of a plan are taken to need, summed up. Pure."""

from backfill.index import LineIndex
from backfill.plan.groups import Plan
from backfill.plan.speed import Need

__all__ = ["sum_needs"]


def sum_needs(index: LineIndex, plan: Plan) -> dict[int, Need]:
    """Model (its position in the index's `model_names`) -> what the lines that are left of it need."""
    needs: dict[int, Need] = {}
    for model, groups in plan.groups.items():
        tokens = completion = 0
        for group in groups:
            tokens += sum(map(index.token_estimates.__getitem__, group.lines))
            completion += sum(map(index.answer_tokens.__getitem__, group.lines))
        # The index of an early version knows of no answers, and takes each for a long one.
        needs[model] = Need(max(0, tokens - completion), completion)
    return needs
