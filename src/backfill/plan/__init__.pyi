from .cut import count_slices, cut_lines
from .forecast import Job, forecast
from .groups import LineGroup, Plan
from .needs import sum_needs
from .order import plan_lines, prepare
from .replicas import Bounds, Demand, Descent, Sight, want_replicas
from .speed import Estimating, Fastest, Need, Speed, Team, TokenTime

__all__ = [
    "Bounds",
    "Demand",
    "Descent",
    "Estimating",
    "Fastest",
    "Job",
    "LineGroup",
    "Need",
    "Plan",
    "Sight",
    "Speed",
    "Team",
    "TokenTime",
    "count_slices",
    "cut_lines",
    "forecast",
    "plan_lines",
    "prepare",
    "sum_needs",
    "want_replicas",
]
