"""Admission, leases, cancel, expiry: which batch goes next and who may work on it. Never looks inside a request."""

from backfill.turns.admission import check_endpoint, judge, parse_window
from backfill.turns.bell import Bell
from backfill.turns.turns import Attempt, BatchRequest, Turn, Turns, now_ms

__all__ = ["Attempt", "BatchRequest", "Bell", "Turn", "Turns", "check_endpoint", "judge", "now_ms", "parse_window"]
