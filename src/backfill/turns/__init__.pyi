from .admission import Verdict, check_endpoint, judge
from .announcements import Announcements
from .bell import Bell
from .creation import Appraise, Attempt, BatchRequest, Creation
from .setbacks import ALL_BATCHES, Setbacks
from .turns import Turn, Turns, now_ms

__all__ = [
    "ALL_BATCHES",
    "Announcements",
    "Appraise",
    "Attempt",
    "BatchRequest",
    "Bell",
    "Creation",
    "Setbacks",
    "Turn",
    "Turns",
    "Verdict",
    "check_endpoint",
    "judge",
    "now_ms",
]
