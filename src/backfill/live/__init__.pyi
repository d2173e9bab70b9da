from .limits import Admission
from .media import LiveMedia
from .traffic import LiveAnswer, LiveTraffic

__all__ = ["Admission", "LiveAnswer", "LiveMedia", "LiveTraffic"]
