"""Pure: (index - finished lines) -> the order of lines. No I/O, no clock, no event loop."""

from backfill.plan.order import order_lines

__all__ = ["order_lines"]
