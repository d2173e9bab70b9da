from .cut import count_slices, cut_lines
from .forecast import Job, forecast
from .groups import LineGroup, Plan
from .needs import sum_needs
from .order import plan_lines, prepare
from .speed import Need, Speed

__all__ = [
    "Job",
    "LineGroup",
    "Need",
    "Plan",
    "Speed",
    "count_slices",
    "cut_lines",
    "forecast",
    "plan_lines",
    "prepare",
    "sum_needs",
]
