from .absent import AbsentTraffic
from .limits import Admission
from .media import LiveMedia
from .traffic import LiveAnswer, LiveTraffic

__all__ = ["AbsentTraffic", "Admission", "LiveAnswer", "LiveMedia", "LiveTraffic"]
