from .admission import Verdict, check_endpoint, judge
from .announcements import Announcements
from .bell import Bell
from .choice import Stock
from .creation import Appraise, Attempt, BatchRequest, Creation
from .duties import ADMISSION, DEADLINES, RETENTION, WEBHOOKS, Duties
from .neighbours import Company, Neighbours
from .setbacks import ALL_BATCHES, Setbacks
from .turns import Turn, Turns, now_ms

__all__ = [
    "ADMISSION",
    "ALL_BATCHES",
    "DEADLINES",
    "RETENTION",
    "WEBHOOKS",
    "Announcements",
    "Appraise",
    "Attempt",
    "BatchRequest",
    "Bell",
    "Company",
    "Creation",
    "Duties",
    "Neighbours",
    "Setbacks",
    "Stock",
    "Turn",
    "Turns",
    "Verdict",
    "check_endpoint",
    "judge",
    "now_ms",
]
