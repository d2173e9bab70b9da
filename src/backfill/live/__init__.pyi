from .absent import AbsentTraffic
from .answer import LiveAnswer
from .limits import Admission, LiveLimits
from .media import LiveMedia
from .relay import RelayedTraffic
from .relay_words import FAILURE_HEADER, OWNER_HEADER, RELAY_PATH, RELAY_SECRET, make_relay_key
from .traffic import LiveTraffic, Traffic

__all__ = [
    "FAILURE_HEADER",
    "OWNER_HEADER",
    "RELAY_PATH",
    "RELAY_SECRET",
    "AbsentTraffic",
    "Admission",
    "LiveAnswer",
    "LiveLimits",
    "LiveMedia",
    "LiveTraffic",
    "RelayedTraffic",
    "Traffic",
    "make_relay_key",
]
