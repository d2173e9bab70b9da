"""Pure: (index - finished lines) -> the order of lines. No I/O, no clock, no event loop."""

from backfill.plan.order import LineGroup, Plan, plan_lines

__all__ = ["LineGroup", "Plan", "plan_lines"]
