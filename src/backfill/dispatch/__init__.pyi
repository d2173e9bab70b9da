from .crew import Crew
from .dispatcher import Dispatcher
from .forecaster import Forecaster
from .heartbeat import Heartbeat

__all__ = ["Crew", "Dispatcher", "Forecaster", "Heartbeat"]
